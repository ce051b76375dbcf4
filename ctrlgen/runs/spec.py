"""Parts of a run as JSON, and back: methods, optimizers, solvers, grids, costs, operators, priors.

    spec = describe(method)    {"type": "ctrlgen.methods.source.dflow:DFlow", "solver": {...}, ...}
    method == rebuild(spec)

A dataclass is its fields. Any other class of ours is the arguments of its constructor where it
keeps them under their names and they make the same object again, else its attributes. A prior is
its card. A tensor goes by name into a mapping that is written as safetensors, or into the JSON
where no mapping is given. What a spec names is resolved like a card: trusted modules only
(`ctrlgen.priors.trust`). A function is its name, and must be of a package that the user trusts; a
network has no spec, and neither has what names a file or a program to run (`runs_code`): a plan
names these, whose files the user trusts when the run goes on.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior, load
from ctrlgen.priors.trust import Trust, resolve
from ctrlgen.rows.batching import PerSample
from ctrlgen.rows.errors import CardError, short
from ctrlgen.runs.json_files import NAMES

__all__ = ["SpecError", "describe", "rebuild", "same"]

Tensors = dict[str, Tensor]

_INLINE = 1 << 16
"""Numbers of the largest tensor that is written into the JSON."""

_DEEPEST = 40


class SpecError(ValueError):
    """A part has no spec, or a spec makes no part."""


def describe(part: Any, tensors: Tensors | None = None) -> Any:
    """The spec of a part: JSON.

    Args:
        part: any component of the library, or of a package of the user's; nested as it likes.
        tensors: receives the tensors by the place they were met at; None writes them into the JSON.

    Raises:
        SpecError: for what has none, such as a function or a network; says where it lies.
    """
    return _describe(part, tensors, "", 0)


def _describe(value: Any, tensors: Tensors | None, place: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise SpecError(f"{place[:60]}...: nested too deeply to be described")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"number": str(value)} if value - value != 0 else value

    def inner(item: Any, name: object) -> Any:
        return _describe(item, tensors, f"{place}.{name}" if place else str(name), depth + 1)

    if isinstance(value, list):
        return [inner(item, i) for i, item in enumerate(value)]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [inner(item, i) for i, item in enumerate(value)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):
        return {"items": [[inner(k, "key"), inner(v, k)] for k, v in value.items()]}
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, Tensor):
        return _tensor(value, tensors, place)
    if isinstance(value, Prior):
        return _prior(value, inner)
    if inspect.isroutine(value):
        return _function(value, place)
    if isinstance(value, torch.nn.Module | type):
        raise SpecError(
            f"{place or 'part'}: {short(value)} has no spec; what holds it cannot be rebuilt"
        )
    if getattr(value, "runs_code", False):
        raise SpecError(f"{place or 'part'}: {short(value)} names code that runs and has no spec")
    kind = type(value)
    if "<locals>" in kind.__qualname__ or kind.__module__ in sys.stdlib_module_names:
        raise SpecError(f"{place or 'part'}: {short(value)} of {kind.__qualname__} has no spec")
    head = {"type": f"{kind.__module__}:{kind.__qualname__}"}
    if is_dataclass(value):
        return head | {f.name: inner(getattr(value, f.name), f.name) for f in fields(value)}
    arguments = _arguments(value)
    if arguments is not None:
        return head | {name: inner(item, name) for name, item in arguments.items()}
    return head | {"state": {name: inner(item, name) for name, item in vars(value).items()}}


def _arguments(value: Any) -> dict[str, Any] | None:
    """Arguments that make the object again; None where it does not keep them."""
    parameters = list(inspect.signature(type(value)).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters):
        return {} if not vars(value) else None
    if not all(p.name in vars(value) for p in parameters):
        return None
    given = {p.name: vars(value)[p.name] for p in parameters}
    try:
        return given if same(type(value)(**given), value) else None
    except Exception:  # whatever a constructor says to its own attributes
        return None


def _tensor(value: Tensor, tensors: Tensors | None, place: str) -> dict[str, Any]:
    value = value.detach()
    if tensors is not None:
        name = place or "part"
        tensors[name] = value.cpu()
        return {"tensor": name}
    if value.numel() > _INLINE:
        raise SpecError(f"{place or 'part'}: a tensor of {value.numel()} numbers needs `tensors`")
    flat = value.cpu().flatten()
    numbers = flat.tolist() if not flat.is_floating_point() else [
        x if x - x == 0 else str(x) for x in flat.double().tolist()
    ]  # fmt: skip
    return {
        "tensor": {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "values": numbers,
        }
    }


def _prior(prior: Prior, inner: Callable[[Any, object], Any]) -> dict[str, Any]:
    """A prior by its card and the conditions that are bound."""
    from ctrlgen.runs.fingerprint import fingerprint

    name = prior.card.name if prior.card else None
    try:
        if name is None or fingerprint(load(name).bind(**prior.conditions)) != fingerprint(prior):
            raise SpecError(f"prior: {prior!r} is not that of an installed card")
    except LookupError as error:
        raise SpecError(f"prior: {error}") from error
    conditions = inner(dict(prior.conditions), "conditions")
    return {"prior": name, "device": str(prior.device), "conditions": conditions}


def _function(value: Any, place: str) -> dict[str, Any]:
    name = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
    words = name.replace(":", ".").split(".")
    if inspect.ismethod(value) or not all(word.isidentifier() for word in words):
        raise SpecError(
            f"{place or 'part'}: {short(value)} is no function of a module and has no spec"
        )
    return {"function": name}


def rebuild(spec: Any, tensors: Mapping[str, Tensor] | None = None, *, trust: Trust = None) -> Any:
    """What a spec describes.

    Args:
        spec: of `describe`.
        tensors: that it put there.
        trust: packages that it may name beside ctrlgen and installed domains.

    Raises:
        SpecError: if it is none, or names what is not trusted.
    """
    try:
        return _rebuild(spec, tensors or {}, trust)
    except (CardError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise error if isinstance(error, SpecError) else SpecError(f"spec: {error}") from error


def _rebuild(spec: Any, tensors: Mapping[str, Tensor], trust: Trust) -> Any:
    def inner(item: Any) -> Any:
        return _rebuild(item, tensors, trust)

    if isinstance(spec, list):
        return [inner(item) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    if "type" in spec:
        return _object(spec, inner, trust)
    if "prior" in spec:
        prior = load(spec["prior"], device=spec["device"], trust=trust)
        return prior.bind(**inner(spec["conditions"]))
    ((kind, content),) = spec.items()
    if kind == "tensor":
        if isinstance(content, str):
            return tensors[content]
        numbers = [_NUMBERS.get(x, x) for x in content["values"]]
        dtype = _torch(content["dtype"], torch.dtype)
        return torch.tensor(numbers, dtype=dtype).reshape(content["shape"])
    if kind == "function":
        return resolve(content, type(None), "function", trust)
    return _PLAIN[kind](inner(content))


_NUMBERS = {**NAMES, "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _torch(name: str, kind: type) -> Any:
    value = getattr(torch, name, None)
    if not isinstance(value, kind):
        raise SpecError(f"spec: expected a {kind.__name__} of torch, got {short(name)}")
    return value


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "number": float,
    "tuple": tuple,
    "range": lambda ends: range(*ends),
    "items": dict,
    "dtype": lambda name: _torch(name, torch.dtype),
    "device": torch.device,
    "path": Path,
}


def _object(spec: Mapping[str, Any], inner: Callable[[Any], Any], trust: Trust) -> Any:
    made = _made(spec, inner, trust)
    if getattr(made, "runs_code", False):
        raise SpecError(f"spec: {short(spec['type'])} names code that runs, which no spec may")
    return made


def _made(spec: Mapping[str, Any], inner: Callable[[Any], Any], trust: Trust) -> Any:
    kind = resolve(spec["type"], object, "spec", trust)
    if not isinstance(kind, type):
        raise SpecError(f"spec: expected a class, got {short(spec['type'])}")
    if set(spec) == {"type", "state"}:
        made: Any = object.__new__(kind)
        vars(made).update({name: inner(item) for name, item in spec["state"].items()})
        return made
    given = {name: inner(item) for name, item in spec.items() if name != "type"}
    if not is_dataclass(kind):
        return kind(**given)
    later = {f.name for f in fields(kind) if not f.init} & given.keys()
    made = kind(**{name: value for name, value in given.items() if name not in later})
    for name in later:  # fields that the constructor does not take
        object.__setattr__(made, name, given[name])
    return made


def same(one: Any, other: Any) -> bool:
    """Whether two parts are equal, tensors bit for bit and NaN equal to itself."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and bool(torch.equal(one.nan_to_num(), other.nan_to_num())) and bool(
            torch.equal(one.isnan(), other.isnan())
        )  # fmt: skip
    if isinstance(one, Mapping):
        return set(one) == set(other) and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one) or isinstance(one, PerSample) or type(one).__eq__ is object.__eq__:
        if not hasattr(one, "__dict__"):
            return False
        return same(vars(one), vars(other))
    return bool(one == other) or (one != one and other != other)
