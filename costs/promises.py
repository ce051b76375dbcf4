r"""The promises of a cost, tried one by one on a batch of signals; see `ctrlgen.costs.check`."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost
from ctrlgen.rows.batching import PerSample, flat
from ctrlgen.rows.seeds import normal

__all__ = ["Check", "Trial", "value_and_gradient"]

_DIRECTIONS = 5  # stream of the random directions
_BASIC = ("one value per sample", "is a number", "has a gradient")
_INVARIANT = {torch.float64: 1e-10, torch.float32: 1e-4}  # relative to max(1, |C|)
_SCALE = (1e-12, 1e12)
"""Gradients that optimizers can square, and that Adam's 1e-8 does not drown, with room to spare."""
_CLOSE = {torch.float64: 1e-3, torch.float32: 3e-2}  # of the difference quotient


@dataclass(frozen=True)
class Check:
    """One promise: whether it is kept (None: could not be tried), what was found, what to do."""

    name: str
    passed: bool | None
    found: str
    advice: str = ""


@dataclass
class Trial:
    """One cost on one batch of signals.

    Attributes:
        cost: on trial.
        x: signals, shape (B, *).
        seeds: of the random directions, shape (B,).
        directions: number of random directions per sample.
        checks: what was found, in order.
    """

    cost: Cost
    x: Tensor
    seeds: Tensor
    directions: int = 3
    checks: list[Check] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the cost can be evaluated and differentiated at all."""
        return all(c.passed is not False for c in self.checks if c.name in _BASIC)

    def run(self) -> None:
        """All promises that signals of one kind can tell about."""
        self.values()
        if not self.sound:
            return
        self.numbers()
        if not self.sound:
            return
        self.has_gradient()
        if not self.sound:
            return
        self.repeatable()
        self.finite(self.x, "decoded noise")
        self.scaled(self.x, "decoded noise")
        try:
            cost, x, why = _as_double(self.cost), self.x.double(), ""
            value_and_gradient(cost, x)
        except Exception as error:  # whatever a user's code raises is the finding
            cost, x, why = self.cost, self.x, _words(error)
        if all(
            c.passed for c in self.checks if c.name == "repeatable"
        ):  # of random values nothing further can be said
            self.independent(cost, x)
            self.differences(cost, x)
        self.formats()
        if why:
            advice = "make constants with x.new_tensor or .to(x); the checks ran in float32"
            self.add("works in float64", None, why, advice)

    def add(self, name: str, passed: bool | None, found: str, advice: str = "") -> None:
        """Note a finding; advice is for what did not pass."""
        self.checks.append(Check(name, passed, found, "" if passed else advice))

    def values(self) -> None:
        name, advice = "one value per sample", "reduce over every dimension but the first"
        for rows in (len(self.x), 1):
            try:
                value = self.cost.take(torch.arange(rows)).forward(self.x[:rows].clone())
            except (Exception, SystemExit) as error:  # a user's code may do anything
                return self.add(name, False, _words(error), "it is called with signals (B, *)")
            if not isinstance(value, Tensor) or value.shape != (rows,):
                got = f"shape {(*value.shape,)}" if isinstance(value, Tensor) else _type(value)
                return self.add(name, False, f"{got} for {rows} samples", advice)
            if not value.is_floating_point():
                return self.add(name, False, _name(value.dtype), "return floating point values")
        self.add(name, True, f"shape ({len(self.x)},)")

    def numbers(self) -> None:
        """Whether any value is a number at all: of NaN nothing further can be said."""
        value = self.cost(self.x).detach()
        if bool(value.isnan().all()):
            advice = "a NaN comes from 0/0, the root or logarithm of a negative number, ∞ − ∞"
            self.add("is a number", False, f"NaN on all {len(value)} samples", advice)

    def has_gradient(self) -> None:
        name = "has a gradient"
        advice = "use differentiable torch operations on the signal; no detach, no numpy"
        try:
            gradient = value_and_gradient(self.cost, self.x)[1]
        except Exception as error:
            return self.add(name, False, _words(error), advice)
        if gradient is None:
            self.add(name, False, "the value does not depend on the signal", advice)
        elif bool((gradient == 0).all()):
            advice = "rounding, argmax and thresholds have no slope; use a smooth form of them"
            self.add(name, False, "zero everywhere", advice)
        else:
            self.add(name, True, "differentiable in the signal")

    def repeatable(self) -> None:
        first, second = (self.cost(self.x).detach() for _ in range(2))
        same = (first == second) | (first.isnan() & second.isnan())
        off = _most(torch.where(same, 0, first - second))
        found = "the same twice" if off == 0 else f"off by {off:.1e}"
        self.add("repeatable", off == 0, found, "draw random numbers once, in the constructor")

    def finite(self, x: Tensor, signals: str) -> None:
        """Whether values and gradients are finite on these signals, shape (B, *)."""
        value, gradient = value_and_gradient(self.cost, x)
        assert gradient is not None
        slope = flat(gradient)
        bad = int((~(value.isfinite() & slope.isfinite().all(1))).sum())
        counts = {
            "values NaN": value.isnan(),
            "values infinite": value.isinf(),
            "gradients NaN": slope.isnan().any(1),
            "gradients infinite": slope.isinf().any(1),
        }
        words = ", ".join(f"{name} {int(w.sum())}" for name, w in counts.items() if bool(w.any()))
        found = f"{bad} of {len(x)} samples are not: {words}" if bad else "values and gradients"
        advice = "guard roots, logs and divisions where they are singular, e.g. by clamp_min"
        self.add(f"finite on {signals}", not bad, found, advice)

    def scaled(self, x: Tensor, signals: str) -> None:
        """Whether gradients on these signals are of a size that optimizers can work with."""
        value, gradient = value_and_gradient(self.cost, x)
        assert gradient is not None
        norms = flat(gradient).double().norm(dim=1)
        norms = norms[norms.isfinite() & value.isfinite()]
        if not len(norms):
            return
        largest, (low, high) = float(norms.max()), _SCALE
        found = f"‖gradient‖ up to {largest:.1e}"
        advice = f"scale the cost so that its gradient lies between {low:g} and {high:g}"
        self.add(f"usable scale on {signals}", low <= largest <= high, found, advice)

    def independent(self, cost: Cost, x: Tensor) -> None:
        whole, order = cost(x).detach(), torch.arange(len(x)).flip(0)
        alone = torch.cat([cost.take(i[None])(x[i[None]]).detach() for i in order])
        turned = cost.take(order)(x[order]).detach()
        # rounding of the signal moves the value by as much as eps times this
        gradient = value_and_gradient(cost, x)[1]
        assert gradient is not None
        natural = float((flat(gradient).norm(dim=1) * flat(x).norm(dim=1)).max())
        floor = min(1.0, natural) or 1.0
        difference = torch.stack((alone, turned)) - whole[order]
        off = _most(difference / whole[order].abs().clamp_min(floor))
        tolerance = _INVARIANT[x.dtype]
        advice = "reduce within each sample only, and name per-sample data in `per_sample`"
        self.add("no sample sees another", off <= tolerance, f"off by {off:.1e}", advice)
        if len(x) > 1:
            point = x.detach().clone().requires_grad_()
            (leak,) = torch.autograd.grad(cost(point * 1)[0], point)
            own, *others = flat(leak).norm(dim=1).tolist()
            reach = max(others) / max(own, 1e-300)
            found = "none" if reach == 0 else f"{reach:.1e} of its own"
            self.add("no gradient across samples", reach <= tolerance, found, advice)

    def differences(self, cost: Cost, x: Tensor) -> None:
        close = _CLOSE[x.dtype]
        rows = [self._off(cost.take(i[None]), x[i[None]], i[None]) for i in torch.arange(len(x))]
        name = f"gradient = differences ({_name(x.dtype)})"
        advice = "value and gradient disagree: is there a detach, no_grad or backward of your own?"
        self.add(name, max(rows) <= close, f"off by {max(rows):.1e}", advice)

    def _off(self, cost: Cost, x: Tensor, row: Tensor) -> float:
        """The largest relative error of difference quotients of one sample by itself."""
        value, gradient = value_and_gradient(cost, x)
        assert gradient is not None
        g, d, eps = gradient.flatten(), x.numel(), torch.finfo(x.dtype).eps
        size = float(x.norm().clamp_min(1e-3 * math.sqrt(d)))
        draws = normal(self.seeds[row], (self.directions, d), _DIRECTIONS, dtype=x.dtype).to(x)
        worst = 0.0
        for v in (g, *draws[0]):
            v = v / v.norm().clamp_min(1e-30)
            claimed, errors = g @ v, []
            for power in (1 / 3, 1 / 4):  # a kink, or rounding, may spoil one step length
                h = eps**power * size
                with torch.no_grad():
                    step = h * v.reshape(x.shape)
                    slope = (cost(x + step) - cost(x - step)) / (2 * h)
                # A random direction sees 1/√d of the gradient; rounding leaves about eps |C| / h.
                least = g.norm() / math.sqrt(d) + eps * value.abs() / h / _CLOSE[x.dtype]
                errors.append((slope - claimed).abs() / torch.maximum(claimed.abs(), least))
            worst = max(worst, _most(torch.minimum(*errors)))
        return worst

    def formats(self) -> None:
        x = self.x.clone()
        value = self.cost(x)
        same = torch.equal(x, self.x)
        found = "unchanged" if same else "changed in place"
        self.add("leaves the signal alone", same, found, "no in-place operations on the signal")
        kept = value.dtype == x.dtype and value.device == x.device
        found = f"{_name(value.dtype)} on {value.device}"
        advice = f"signals are {_name(x.dtype)} on {x.device}: build constants like them"
        self.add("keeps dtype and device", kept, found, advice)


def value_and_gradient(cost: Cost, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Values (B,) and the gradient of their sum, shape of x; None where there is none."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        value = cost(point * 1)  # no leaf, so that an in-place change is found and not refused
        if not value.requires_grad:
            return value.detach(), None
        (gradient,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
    return value.detach(), gradient


def _as_double(value: Any) -> Any:
    """A copy with its tensors, and the networks among its attributes, in float64."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).double()
    if isinstance(value, PerSample):
        clone = copy.copy(value.to(torch.float64))
        for name, item in vars(value).items():
            if isinstance(item, torch.nn.Module | PerSample):
                setattr(clone, name, _as_double(item))
        return clone
    return value


def _most(values: Tensor) -> float:
    """The largest magnitude; NaN counts as infinite."""
    return float(values.abs().nan_to_num(math.inf).max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _type(value: object) -> str:
    return type(value).__name__


def _words(error: BaseException) -> str:
    return f"{_type(error)}: {' '.join(str(error).split())[:200]}"
