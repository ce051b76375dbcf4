"""What every method shares: the call, and the checks that come before any compute.

    method(prior, cost, seeds=...) -> Result

A cost is anything that maps signals (B, *) to one value per sample; data of single samples are
taken along through `take` (`ctrlgen.rows.batching`). Before the network is evaluated once, the
cost is tried on signals decoded from the source, so that a scalar, a missing gradient, or data
that do not fit are found at once.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ctrlgen.methods.result import Result
from ctrlgen.operators.base import Measurement
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.paths import Path
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import rows_of, take
from ctrlgen.rows.checks import check_kind
from ctrlgen.rows.constants import follow
from ctrlgen.rows.errors import CostError, Doubtful, UnknownName, short
from ctrlgen.rows.seeds import Seeds, as_seeds
from ctrlgen.sampling.grids import Level

__all__ = [
    "CostForm",
    "CostLike",
    "Method",
    "check_clip",
    "check_clock",
    "check_dtype",
    "check_levels",
    "check_parts",
    "cost_rows",
    "differentiable",
    "first_points",
    "measurement_of",
    "try_cost",
]

CostLike = Callable[[Tensor], Tensor]
CostForm = Literal["psnr", "squared"]


class Method(ABC):
    """An algorithm from prior and cost to result.

    Attributes:
        control: what it optimises or steers, in a few words; `ctrlgen methods` shows both.
        needs: what it asks of the cost beside one value per sample.
        presets: settings by name, as keyword arguments.
        cost_form: of the cost of a measurement that suits it: "psnr", in decibels, where only the
            direction of a gradient or a target counts; "squared", ‖Hx − y‖², where the cost is
            weighed against something else.
    """

    control: ClassVar[str]
    needs: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    cost_form: ClassVar[CostForm] = "psnr"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = _checked(vars(cls)["__call__"])  # type: ignore[method-assign]

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The settings of a name in `presets`, with changes.

        Args:
            name: one of `presets`.
            **changes: fields to set otherwise.

        Raises:
            UnknownName: for a name that is not among them.
        """
        if name not in cls.presets:
            raise UnknownName("preset", name, cls.presets)
        return cls(**{**cls.presets[name], **changes})

    @abstractmethod
    def __call__(
        self, prior: Prior, cost: CostLike, *, seeds: Seeds, observer: Observer | None = None
    ) -> Result:
        """Steer the prior to low cost, one sample per seed.

        Args:
            prior: bound to as many rows of conditions as there are seeds, or to none.
            cost: signals to values (B,); a `ctrlgen.costs.Cost` or a function.
            seeds: one per sample; the same seed gives the same result in any batch.
            observer: receives an event per round.

        Raises:
            CostError: if the cost breaks its contract.
            ValueError: if numbers of rows disagree.

        What is raised in the middle of a run, by the cost, the observer or Ctrl-C, carries what
        was done until then: its attribute `partial` is a `Result`, in which samples that were
        still at work have the status RUNNING (`ctrlgen.rows.errors.partial_of`).
        """


def _checked(call: Callable[..., Result]) -> Callable[..., Result]:
    """The call of a method, after the kinds of prior and observer are checked."""

    @functools.wraps(call)
    def checked(self: Method, prior: Prior, cost: CostLike, *more: Any, **options: Any) -> Result:
        if isinstance(prior, str):
            raise TypeError(f"prior: expected a Prior, got {prior!r}; ctrlgen.load has it by name")
        check_kind(Prior, prior=prior)
        observer = options.get("observer")
        if observer is not None and not callable(observer):
            raise TypeError(f"observer: expected a function of an event, got {short(observer)}")
        return call(self, prior, cost, *more, **options)

    return checked


def check_parts(method: Method, **kinds: type) -> None:
    """Raise TypeError where a field of a method is of another kind than its name says."""
    for name, kind in kinds.items():
        value = getattr(method, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected a {kind.__name__}, got {value!r}")


def check_clock(clock: Path | None) -> None:
    """Raise TypeError for a clock that is no path."""
    if clock is not None and not isinstance(clock, Path):
        raise TypeError(f"clock: expected a Path or None, got {clock!r}")


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError for a dtype of states that is neither float32 nor float64."""
    if dtype not in (torch.float32, torch.float64):
        hint = ""
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
            hint = "; a network in half precision is served by one that converts on its way"
        raise ValueError(
            f"dtype: expected torch.float32 or torch.float64, got {short(dtype)}{hint}"
        )


def check_levels(prior: Prior, levels: Sequence[Level]) -> None:
    """Raise ValueError where the prior's network says nothing at a level that is evaluated."""
    for level in levels[:-1]:
        prior.flow.check_time(level.time)


def check_clip(clip: float | None) -> None:
    """Raise ValueError for a bound of x̂ that is not positive."""
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a positive bound or None, got {clip}")


def first_points(
    prior: Prior, seeds: Seeds, dtype: torch.dtype, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Seeds (B,) and the source points (B, *) that they draw, in one place.

    Args:
        prior: its source draws.
        seeds: one per sample.
        dtype: of the points.
        device: of both; the network's by default.
    """
    rows = as_seeds(seeds)
    z = prior.start(rows, dtype=dtype, device=device)
    return rows.to(z.device), z


def cost_rows(cost: CostLike, index: Tensor) -> CostLike:
    """The cost of the samples `index`; a plain function holds no data of samples."""
    return take(cost, index) if hasattr(cost, "take") else cost


def measurement_of(cost: CostLike) -> Measurement | None:
    """The inverse problem behind a cost, if it has one."""
    return getattr(cost, "measurement", None)


def differentiable(cost: CostLike) -> bool:
    """Whether a cost has a gradient, as far as it says so itself."""
    return bool(getattr(cost, "differentiable", True))


def try_cost(
    prior: Prior,
    cost: CostLike,
    x0: Tensor,
    target: float | Tensor | None = None,
    *,
    gradient: bool = True,
) -> None:
    """Evaluate the cost once on decoded source points and check its contract.

    Warns (`Doubtful`) of a target that these points meet, which are noise: nothing would be done.

    Args:
        prior: whose codec decodes; its network is not evaluated.
        cost: the cost of all samples.
        x0: source points of all samples, shape (B, *).
        target: of the cost, if the method has one.
        gradient: whether the method needs one. Where it does not, a cost that says that it has none
            is not evaluated here: a call of a black box may take minutes.

    Raises:
        TypeError: if the cost cannot be called.
        CostError: if it holds another number of samples, or does not return one differentiable,
            floating point value per sample.
    """
    if gradient and torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() is on, in which nothing has a gradient; call the method "
            "outside of it (torch.no_grad() does no harm)"
        )
    if not callable(cost) or inspect.isclass(cost):
        raise TypeError(f"cost: expected a Cost or a function of the signal, got {cost!r}")
    held = rows_of(cost)
    if held is not None and held != len(x0):
        raise CostError(f"cost: holds data of {held} samples, expected {len(x0)}, one per seed")
    if not differentiable(cost):
        if gradient:
            raise CostError(
                f"cost: {cost} is a black box and has no gradient; BestOf, EvolutionStrategy, "
                "ParticleResampling, RenoisingSearch and TrustRegionSearch need none"
            )
        return
    with torch.set_grad_enabled(gradient):
        state = x0.detach().requires_grad_(gradient)
        value = cost(prior.codec.decode(state))
        if not isinstance(value, Tensor) or value.shape != x0.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CostError(
                f"cost: expected one value per sample, shape {tuple(x0.shape[:1])}, got {got}"
            )
        if not value.is_floating_point():
            raise CostError(f"cost: expected floating point values, got {value.dtype}")
        slope = None
        if gradient and value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), state, allow_unused=True)
        if gradient and slope is None:
            raise CostError(
                "cost: has no gradient with respect to the signal; it must be computed from the "
                "signal by differentiable torch operations"
            )
    _try_some(prior, cost, x0)
    goal = follow(target, value) if isinstance(target, Tensor) else target
    if goal is not None and bool((value.detach() <= goal).all()):
        worst = float(value.detach().max())
        warnings.warn(
            f"target: {target} is met by noise, whose cost is at most {worst:.4g}, so that nothing "
            "would be done; a target is a cost: 40 dB of NegativePSNR are -40",
            Doubtful,
            stacklevel=3,
        )


def _try_some(prior: Prior, cost: CostLike, x0: Tensor) -> None:
    """Raise CostError for a cost that holds data of samples without saying so.

    Rows leave the batch when they are done; what a function has captured does not leave with them.
    """
    if len(x0) < 2:
        return
    index = torch.zeros(1, dtype=torch.int64, device=x0.device)
    remedy = (
        "FunctionCost(function, {'y': y}) or a Cost that names its data in `per_sample` lets rows "
        "leave the batch"
    )
    some, part = prior.take(index), cost_rows(cost, index)
    with torch.no_grad():
        signal = some.codec.decode(x0.detach()[:1])
        try:
            value = part(signal)
        except Exception as error:
            raise CostError(
                f"cost: fails on the first sample alone, as if it held data of all; {remedy}: "
                f"{error}"
            ) from error
    if value.shape != (1,):
        raise CostError(
            "cost: expected one value on the first sample alone, shape (1,), got "
            f"{tuple(value.shape)}, as if it held data of all; {remedy}"
        )
