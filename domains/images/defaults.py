"""The default method of each task and prior: the best of the committed matrix of methods.

`defaults.json` is derived from `experiments/results/method_matrix_*` by

    python -m ctrlgen.experiments.methods.image_defaults

For priors of which the matrix says nothing the default is D-Flow, which meets any measurement.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FALLBACK", "Default", "default_for"]

FALLBACK = "d-flow"


class Default(NamedTuple):
    """A method and its evaluations of the network per sample, None for its own number."""

    method: str
    evaluations: int | None


@cache
def _table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("defaults.json").read_text())


def default_for(prior: str | None, task: str) -> Default:
    """What a task is solved by where no method is named.

    Args:
        prior: its name.
        task: "inpaint", "upsample", "deblur" or "denoise".
    """
    row = _table()["priors"].get(prior, {}).get("tasks", {}).get(task)
    return Default(FALLBACK, None) if row is None else Default(row["method"], row["evaluations"])
