"""The process in which `ctrlgen.runs.scorers` calls a user's function, one sample a request.

load    imports the function, and remembers what it is given of a signal
score   one number for one signal, which comes as the bytes of its tensor
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import torch
from torch import Tensor

from ctrlgen import plugins
from ctrlgen.runs.scorers import score
from ctrlgen.runs.serving import serve
from ctrlgen.runs.spec import rebuild

__all__ = ["TASKS"]

_CALL: dict[str, Any] = {}


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Import what is to be called."""
    sys.path[:] = [*request["path"], *(p for p in sys.path if p not in request["path"])]
    torch.set_num_threads(1)
    _CALL["function"] = plugins.named(request["reference"], "score")
    _CALL["view"] = rebuild(request["view"])
    return {}


def score_one(request: dict[str, Any]) -> dict[str, Any]:
    """The value of one signal and why it has none, if it has none."""
    data = {name: _tensor(item) for name, item in request["data"].items()}
    (one,) = score(_CALL["function"], _CALL["view"], _tensor(request["signal"]), data)
    return {"value": one.value, "reason": one.reason}


def _tensor(item: dict[str, Any]) -> Tensor:
    """One row, shape (1, *)."""
    dtype = getattr(torch, item["dtype"])
    content = bytearray(base64.b64decode(item["bytes"]))
    return torch.frombuffer(content, dtype=dtype).reshape(1, *item["shape"])


TASKS = {"load": load, "score": score_one}

if __name__ == "__main__":
    serve(TASKS)
