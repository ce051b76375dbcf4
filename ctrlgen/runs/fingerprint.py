"""What the numbers of a run depend on, as JSON: the key under which its shards are valid.

Like a spec (`ctrlgen.runs.spec`), and for everything: a tensor is its sha256, a network that of its
weights, a prior its card and that of its weights, a function its name and the sha256 of the file
that it was written in. Nothing is rebuilt from it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import short

__all__ = ["file_digest", "fingerprint"]

_DEEPEST = 40


def fingerprint(part: Any) -> Any:
    """The fingerprint of a part: JSON."""
    return _print(part, ())


def file_digest(file: Path) -> str:
    """sha256 of a file.

    Raises:
        OSError: if it cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _print(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if id(value) in above or len(above) > _DEEPEST:
        return f"<{type(value).__qualname__}>"
    inside = (*above, id(value))
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "sha256": _tensor(value)}
    if isinstance(value, Prior):
        return _prior(value, inside)
    if isinstance(value, torch.nn.Module):
        settings = {k: v for k, v in vars(value).items() if isinstance(v, str | int | float)}
        return {"network": _name(type(value)), "sha256": _weights(value)} | settings
    if isinstance(value, Mapping):
        return {str(key): _print(item, inside) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [_print(item, inside) for item in items]
    if inspect.isroutine(value) or isinstance(value, type):
        return _code(value, inside)
    if is_dataclass(value):
        return {"type": _name(type(value))} | {
            f.name: _print(getattr(value, f.name), inside) for f in fields(value) if f.compare
        }
    if isinstance(value, Path | torch.dtype | torch.device | range) or not hasattr(
        value, "__dict__"
    ):
        return str(value) if type(value).__repr__ is not object.__repr__ else _name(type(value))
    own = {name: _print(item, inside) for name, item in vars(value).items()}
    code = {} if _ours(type(value)) else _code(type(value), inside)
    return {"type": _name(type(value))} | code | own


def _name(kind: Any) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("ctrlgen", "torch", "builtins")


def _code(value: Any, inside: tuple[int, ...]) -> dict[str, Any]:
    """A function or class of a user: its name, its file and what it has captured."""
    name = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', short(value))}"
    content: dict[str, Any] = {"code": name}
    if name.split(".")[0].split(":")[0] in ("ctrlgen", "torch"):
        return content
    try:
        file = inspect.getsourcefile(value)
        if file is not None:
            content["sha256"] = file_digest(Path(file))
    except (TypeError, OSError):  # built in, or typed into a prompt
        pass
    captured = getattr(value, "__closure__", None) or ()
    if captured:
        content["captured"] = [_print(cell.cell_contents, inside) for cell in captured]
    if hasattr(value, "__code__"):  # of the lambdas of a file
        content["line"] = value.__code__.co_firstlineno
    owner = getattr(value, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        content["of"] = _print(owner, inside)
    return content


def _prior(prior: Prior, inside: tuple[int, ...]) -> dict[str, Any]:
    flow, card = prior.flow, prior.card
    return {
        "card": None if card is None else {"name": card.name, "sha256": card.sha256},
        "network": _print(flow.network, inside),
        "path": _print(flow.path, inside),
        "predicts": str(flow.kind),
        "source": _print(prior.source, inside),
        "codec": _print(prior.codec, inside),
        "grid": _print(prior.grid, inside),
        "conditions": _print(prior.conditions, inside),
    }


def _tensor(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1)
    whole = hashlib.sha256(str(flat.dtype).encode())
    if len(flat):
        whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _weights(network: torch.nn.Module) -> str:
    whole = hashlib.sha256()
    for name, value in network.state_dict().items():
        whole.update(name.encode() + _tensor(value).encode())
    return whole.hexdigest()
