"""The table of fronts: hypervolumes with their intervals, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.experiments.molecules.front import compared, table, worth


def test_rows_of_seeds_are_resampled_together() -> None:
    front = Front(("gap", "mu"), (True, True))
    unit = torch.tensor([1061.9, 1.1757])
    limit = torch.zeros(2, dtype=torch.float64)
    seeds = [torch.tensor([[1.0, 3.0], [0.5, 0.5]]) * unit, torch.tensor([[3.0, 1.0]]) * unit]
    whole, drawn = worth(front, seeds, limit, torch.tensor([[0, 1], [0, 0], [1, 1]]))
    assert whole == pytest.approx(5, rel=1e-5)
    assert drawn.tolist() == pytest.approx([5, 3, 3], rel=1e-5)
    nothing = [torch.full((1, 2), math.nan)] * 2
    sets = {
        name: {"guide": own, "evaluator": own}
        for name, own in (("best of K", nothing), ("steered", seeds))
    }
    told = compared(front, sets, limit, samples=200)
    own = told["steered"]["evaluator"]
    assert own["over best of K"] == pytest.approx(5, rel=1e-5)
    assert own["over best of K, interval"] == pytest.approx([3, 5], rel=1e-5)
    for row in told.values():
        row |= {"evaluations": 40.0, "valid": 2, "on the front": 2}
    text = table({"front": str(front), "directions": 2, "rows": told})
    assert "| steered | 40 | 2 | 2 | 5.00 [3.00, 5.00] | +5.00 [+3.00, +5.00] |" in text
