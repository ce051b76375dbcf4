r"""Networks in forms that a machine evaluates faster; the mathematics stays.

    Half        products of matrices in bfloat16 or float16, all else in the dtype of the states
                (mixed precision; Micikevicius et al., arXiv 1710.03740)
    Compiled    kernels fused by torch.compile (Ansel et al., ASPLOS 2024)
    Graphed     an evaluation launched as one CUDA graph, on batches padded to a few sizes

A CUDA graph replays the same kernels on the same memory, so its batch has a fixed number of rows.
`Graphed` cuts a batch into pieces of its largest size and fills the last one up, to the next size,
with copies of its last row; what comes of the copies is dropped. A recording has one place for its
intermediate results, and a solver evaluates many times before it goes back: none are kept. The
backward pass replays a second graph, which evaluates the network again and pulls the cotangent
back, at the price of one evaluation and with the memory of a checkpoint.

All three are modules around the network, and count as one evaluation each, like the network alone.
Where torch transforms the function (`torch.func`, forward-mode derivatives) the plain network is
evaluated. Second derivatives pass through `Half` and `Graphed`, but not through `Compiled`: torch
raises an error there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["SIZES", "Compiled", "Graphed", "Half"]

SIZES = (1, 4, 16, 64, 256)
"""Rows of the batches that are recorded: at most four times those that are asked for."""

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST = 64  # recordings that are kept; molecules of other sizes are other shapes
_WARM = 3  # evaluations before a recording, in which libraries allocate what they need


def _module(network: Any) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a torch module, got {type(network).__name__}")
    return network


def _transformed(*values: Tensor) -> bool:
    """Whether a transform of torch or a derivative of another input than x passes through."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return forward_ad._current_level >= 0 or any(value.requires_grad for value in values)


class Half(nn.Module):
    """A copy of a network whose matrix products are computed in half precision.

    The weights of linear maps and convolutions are kept in it; states, times, norms and sums stay
    float32, and so do the values returned.

    Args:
        network: to copy.
        dtype: "bfloat16" (eight bits of significand, the range of float32) or "float16".

    Raises:
        ValueError: for another dtype, or a network that is compiled or graphed already.
        TypeError: for one that is no module.
    """

    def __init__(self, network: nn.Module, dtype: str = "bfloat16") -> None:
        super().__init__()
        if dtype not in _HALVES:
            raise ValueError(f"dtype: expected one of {sorted(_HALVES)}, got {dtype!r}")
        if isinstance(network, Compiled | Graphed):
            raise ValueError(
                f"network: expected the plain one, got {type(network).__name__}; half comes first"
            )
        self.network, self.dtype = copy.deepcopy(_module(network)), _HALVES[dtype]
        for part in self.network.modules():
            if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
                part.weight.data = part.weight.data.to(self.dtype)

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction in float32.

        Raises:
            ValueError: for states that are not float32.
        """
        if x.dtype != torch.float32:
            raise ValueError(f"x: expected float32 states for a network in half, got {x.dtype}")
        with torch.autocast(x.device.type, self.dtype):
            value: Tensor = self.network(x, t, **conditions)
        return value.to(x.dtype)


class Compiled(nn.Module):
    """A network through torch.compile; its weights are shared with the original.

    Args:
        network: to compile, at its first evaluation.
        dynamic: one compilation for all sizes of the batch; False compiles each anew, for kernels
            that fit it.
        mode: of torch.compile, e.g. "max-autotune" or "reduce-overhead".

    Raises:
        TypeError: for one that is no module.
    """

    def __init__(
        self, network: nn.Module, dynamic: bool | None = True, mode: str | None = None
    ) -> None:
        super().__init__()
        self.network = _module(network)

        def evaluate(x: Tensor, t: Tensor, conditions: dict[str, Tensor]) -> Tensor:
            value: Tensor = network(x, t, **conditions)
            return value

        self._compiled: Callable[..., Tensor] = torch.compile(evaluate, dynamic=dynamic, mode=mode)
        self._overwritten = mode in ("reduce-overhead", "max-autotune")

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction of the network, up to the rounding of fused kernels."""
        if _transformed(t, *conditions.values()):
            value: Tensor = self.network(x, t, **conditions)
            return value
        value = self._compiled(x, t, conditions)
        # graphs of torch.compile return memory that their next replay overwrites
        return value.clone() if self._overwritten and value.is_cuda else value


class Graphed(nn.Module):
    """A network on batches of a few sizes, on a CUDA device replayed from recordings.

    Its weights are shared with the original, and may change in place. Elsewhere nothing is
    recorded; the padding and the second evaluation on the way back are the same.

    Args:
        network: evaluated without reading back from the device, or the recording fails.
        sizes: rows of the batches that it sees.

    Raises:
        ValueError: for no sizes, or one that is not positive, or a network that is being trained.
        TypeError: for one that is no module.
    """

    def __init__(self, network: nn.Module, sizes: Sequence[int] = SIZES) -> None:
        super().__init__()
        self.network = _module(network)
        whole = all(isinstance(size, int) and size >= 1 for size in sizes)
        if not len(sizes) or not whole:
            raise ValueError(f"sizes: expected positive integers, got {sizes!r}")
        if any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("network: expected frozen weights (requires_grad_(False))")
        self.sizes = tuple(sorted(set(sizes)))
        self.recordings: dict[Any, _Recording] = {}
        self.pool: Any = None  # of memory, shared by the recordings: each result is copied at once

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction of the network at x (B, *), t (B,), for any B."""
        if _transformed(t, *conditions.values()) or not len(x):
            value: Tensor = self.network(x, t, **conditions)
            return value
        names, inputs = tuple(conditions), (x, t, *conditions.values())
        parts = zip(*(value.split(self.sizes[-1]) for value in inputs), strict=True)
        values = [self._evaluate(names, part) for part in parts]
        return values[0] if len(values) == 1 else torch.cat(values)

    def _evaluate(self, names: tuple[str, ...], inputs: tuple[Tensor, ...]) -> Tensor:
        rows = len(inputs[0])
        size = next(size for size in self.sizes if size >= rows)
        x, *rest = (_filled(value, size) for value in inputs)
        shapes = tuple((v.shape, v.dtype, v.device) for v in (x, *rest))
        key = (names, shapes, self.network.training)
        if key not in self.recordings:
            while len(self.recordings) >= _MOST:
                del self.recordings[next(iter(self.recordings))]
            if x.is_cuda and not self.recordings:
                self.pool = torch.cuda.graph_pool_handle()
            self.recordings[key] = _Recording(self.network, names, (x.detach(), *rest), self.pool)
        value: Tensor = _Replay.apply(x, self.recordings[key], *rest)
        return value[:rows]

    def _apply(self, fn: Any, recurse: bool = True) -> Graphed:
        self.recordings.clear()  # the weights move; what was recorded reads the old place
        super()._apply(fn, recurse)
        return self


def _filled(value: Tensor, rows: int) -> Tensor:
    """A batch with copies of its last row, detached, up to a number of rows."""
    missing = rows - len(value)
    if not missing:
        return value
    return torch.cat((value, value[-1:].detach().expand(missing, *value.shape[1:])))


class _Recording:
    """The value of a network and the pull-back of a cotangent, on inputs of fixed shapes."""

    def __init__(
        self, network: nn.Module, names: tuple[str, ...], inputs: tuple[Tensor, ...], pool: Any
    ) -> None:
        self.network, self.names, self.pool = network, names, pool
        self.graphed = inputs[0].is_cuda
        if self.graphed:
            self.inputs = [value.clone() for value in inputs]
            self.cotangent = torch.zeros_like(self.inputs[0])
            self._record()

    def value(self, *inputs: Tensor) -> Tensor:
        """The prediction at x, t and the conditions, without a graph."""
        if not self.graphed:
            return self._value(*inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.forward.replay()
        return self.end.clone()

    def pulled(self, cotangent: Tensor, *inputs: Tensor) -> Tensor:
        """The cotangent of x, shape of x."""
        if not self.graphed:
            return self._pulled(cotangent, *inputs)
        for place, value in zip((self.cotangent, *self.inputs), (cotangent, *inputs), strict=True):
            place.copy_(value)
        self.backward.replay()
        return self.gradient.clone()

    def derivative(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        """The cotangent of x with a graph of its own, for second derivatives."""
        value = self._value(x, *rest)
        return torch.autograd.grad(value, x, cotangent, create_graph=True)[0]

    def _value(self, x: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        value: Tensor = self.network(x, t, **dict(zip(self.names, conditions, strict=True)))
        return value

    def _pulled(self, cotangent: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            return torch.autograd.grad(self._value(point, *rest), point, cotangent)[0]

    def _record(self) -> None:
        def value() -> Tensor:
            with torch.no_grad():
                return self._value(*self.inputs)

        def gradient() -> Tensor:
            return self._pulled(self.cotangent, *self.inputs)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM):
                value(), gradient()
        torch.cuda.current_stream().wait_stream(stream)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, pool=self.pool):
            self.end = value()
        with torch.cuda.graph(self.backward, pool=self.pool):
            self.gradient = gradient()


class _Replay(torch.autograd.Function):
    """The value of a recording, with its pull-back as the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recording: _Recording, *rest: Tensor) -> Tensor:
        ctx.save_for_backward(x, *rest)
        ctx.recording = recording
        return recording.value(x, *rest)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        inputs, recording = ctx.saved_tensors, ctx.recording
        # Gradients are enabled on the way back where the derivative is differentiated in turn.
        pull = recording.derivative if torch.is_grad_enabled() else recording.pulled
        return pull(cotangent, *inputs), None, *(None,) * (len(inputs) - 1)
