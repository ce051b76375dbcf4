"""The rows of the experiment on QM9's properties, on a toy data set with closed-form networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn

from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join
from ctrlgen.experiments.dflow import molecules
from ctrlgen.experiments.dflow.molecules import load_row, run, save_row
from ctrlgen.experiments.dflow.molecules_figures import (
    PUBLISHED,
    SHARES,
    figures,
    summary,
    table,
)
from ctrlgen.experiments.dflow.molecules_rows import (
    Bench,
    Row,
    best_of_draws,
    dflow,
    guidance,
    medians,
    nearest,
    published,
    shuffled,
    unguided,
)
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import further

KINDS, PLACES = 14, 5


class Still(nn.Module):
    """The exact flow of positions of unit variance and of classes that are the source's."""

    def forward(self, x: Tensor, t: Tensor, counts: Tensor | None = None) -> Tensor:
        variance = t.square() + (1 - t).square()
        return ((2 * t - 1) / variance)[:, None, None] * x


def radius(positions: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Six equal properties in closed form: 1000 times the mean square radius in Angstrom²."""
    value = positions.square().sum((1, 2)) / mask.sum(1)
    return (1000 * value).unsqueeze(1).expand(-1, 6)


def unlabelled(mols: Sequence[object]) -> Tensor:
    return torch.full((len(mols), 6), torch.nan)


def bench() -> Bench:
    index = torch.arange(40)
    counts = 3 + index % 3
    gap = 1000.0 + 100 * index
    classes = torch.where(torch.arange(PLACES) < counts[:, None], 2, -1)
    draw = torch.Generator().manual_seed(0)
    positions = torch.randn(40, PLACES, 3, generator=draw)
    positions = join(positions, classes, KINDS)[..., :3]
    data = Molecules(positions, classes, counts, {"gap": gap}, index + 1, "qm9-heavy")
    chosen = torch.tensor([3, 17, 4, 29, 11])
    prior = Prior(Flow(Still(), CondOT()), Atoms(PLACES, 3 + KINDS), AtomCodec())
    return Bench(
        prior, radius, radius, "gap", counts[chosen], gap[chosen], index[chosen] + 1, data,
        Settings(steps=4, evaluations=20, tolerance=0.01, valence=0.0), 2, unlabelled,
    )  # type: ignore[arg-type]  # fmt: skip


def error(row: Tensor) -> Tensor:
    case = bench()
    mask = (row[..., 3:] != 0).any(2)
    return (radius(row[..., :3], row[..., 3:], mask)[:, 0] - case.targets).abs()


def test_dflow_beats_guidance_and_best_of_k_beats_one_draw() -> None:
    case = bench()
    one, many = unguided(case), best_of_draws(case, 6)
    steered, guided = dflow(case), guidance(case, [0.1, 1e-9])
    assert one.evaluations == 8 and many.evaluations == 48
    assert (error(many.signals) <= error(one.signals)).all()
    assert error(many.signals).mean() < error(one.signals).mean()
    assert error(guided.signals).mean() < error(one.signals).mean()
    # these atoms are no molecules, so that none of them comes first
    bound = case.prior.bind(counts=case.counts)
    drawn = [bound.sample(further(case.seeds, i), case.prior.solver(4)) for i in range(6)]
    lowest = torch.stack([error(signals) for signals in drawn]).min(0).values
    assert torch.allclose(error(many.signals), lowest, rtol=1e-4)
    assert (error(steered.signals) < 0.011 * DEVIATION["gap"]).all()
    assert guided.evaluations == 16  # forward and backward, as many steps
    assert guided.settings.startswith("strength 0.1 of")
    counts = (steered.signals[..., 3:] != 0).any(2).sum(1)
    assert torch.equal(counts, case.counts)


def test_the_papers_problem_is_one_draw_and_the_property_alone() -> None:
    case = bench()
    plain = published(case.settings)
    assert (plain.draws, plain.valence, plain.restarts, plain.evaluations) == (1, 0.0, 0, 25)
    assert plain.steps == case.settings.steps and plain.chi == case.settings.chi > 0
    row = dflow(case, plain)
    # one start of at most 25 solves of 8 evaluations, forward and backward
    assert row.evaluations <= 25 * 16 and row.settings == repr(plain)


def test_rows_of_real_values_leave_the_molecule_itself_out() -> None:
    case = bench()
    values = shuffled(case).values
    assert values is not None and (values != case.targets).all()
    own = (values - 1000) / 100
    assert torch.equal(3 + own.long() % 3, case.counts)
    middle = medians(case).values
    assert middle is not None
    assert middle[0] == case.data.properties["gap"][case.data.counts == case.counts[0]].median()
    near = nearest(case).signals
    assert near is not None
    known = case.data.positions
    places = [int((known - row[:, :3]).abs().amax((1, 2)).argmin()) for row in near]
    found = case.data.properties["gap"][torch.tensor(places)]
    assert torch.equal((found - case.targets).abs(), torch.full((5,), 100.0))


def test_summary_counts_what_the_evaluator_does_not_confirm() -> None:
    scale = DEVIATION["gap"]
    row = {
        "guide": [0.0, 0.0, 9 * scale, 0.0],
        "evaluator": [0.0, 2 * scale, 0.0, None],
        "stable": [True, True, False, True],
    }
    told = summary(row, torch.zeros(4), scale)
    assert told["hacked"] == 0.5 and told["judged"] == 0.75
    assert told["guide"][0] == pytest.approx(9 * scale / 4)
    assert told["evaluator, stable"][0] == pytest.approx(scale)


def test_the_table_has_the_published_rows_beside_ours(tmp_path: Path) -> None:
    metrics = dict(zip(SHARES, (0.5, 0.9, 0.7, 0.65, 0.6, 0.3, 0.2), strict=True))
    row = {
        "guide": [1.0, 2.0], "evaluator": [3.0, None], "stable": [True, False],
        "label": [None, 0.25],
        "metrics": metrics, "evaluations": 40.0, "seconds": 0.5,
    }  # fmt: skip
    results = {
        "prior": "toy", "molecules": 2, "targets": {"mu": [0.0, 0.0]},
        "rows": {
            "mu": {
                "D-Flow": row, "best whole of K": {**row, "evaluator": [2.0, 2.0]},
                "unguided": {**row, "evaluator": [9.0, 9.0]},
                "same-n shuffle": {"error": [6.0, 6.0]}, "per-n median": {"error": [1.0, 1.0]},
            }
        },
    }  # fmt: skip
    text = table(results)
    assert "3.0000 (1 of 2 without)" in text and "30.0 % | 20.0 %" in text
    assert "nearer than D-Flow by the evaluator for 1 of 1 properties (mu)" in text
    lines = text.splitlines()
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {text[text.index("| row |") :].splitlines()[0].count("|")}
    assert "| 0.2500 (1 of 2 without) |" in text  # the label, of one in QM9
    assert "1.5000" in text and "per-n median (real" in text
    for name, values in PUBLISHED.items():
        assert f"*{name}, published* | {values['mu']:g}" in text
    assert set(next(iter(PUBLISHED.values()))) == set(PROPERTIES)
    assert "mu: 2.0 times below the same-n shuffle, 0.4 below EDM's 1.111 D" in text
    assert "50.0% stable, unguided 50.0%" in text
    figures(results, tmp_path)
    for name in ("targets.png", "errors.png"):
        assert plt.imread(tmp_path / name).std() > 0


def test_a_finished_row_is_kept_and_measured_again_where_the_measures_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(torch.rand(2, 3, 5), evaluations=40.0, seconds=2.0, settings="K = 1")
    save_row(tmp_path / "row.safetensors", {"n": (1, 2)}, row)
    again = load_row(tmp_path / "row.safetensors", {"n": (1, 2)})
    assert again is not None and torch.equal(again.signals, row.signals)
    assert (again.evaluations, again.seconds, again.settings) == (40.0, 2.0, "K = 1")
    assert load_row(tmp_path / "row.safetensors", {"n": (1, 3)}) is None
    assert load_row(tmp_path / "other.safetensors", {}) is None

    measured: list[float] = []
    case = bench()

    def once(bench: Bench, strengths: object, saved: Any) -> None:
        saved("unguided", lambda: unguided(bench))

    def measure(bench: Bench, row: Row) -> dict[str, Any]:
        measured.append(row.evaluations)
        return {"mean": math.nan, "seconds": row.seconds}

    monkeypatch.setattr(molecules, "rows_of", once)
    monkeypatch.setattr(molecules, "measure", measure)
    first = run(case, [1.0], tmp_path / "cache", {"prior": "a"})
    before = case.prior.flow.evaluations.forward
    assert run(case, [1.0], tmp_path / "cache", {"prior": "a"}) == first and len(measured) == 1
    monkeypatch.setattr(molecules, "MEASURES", -1)
    assert run(case, [1.0], tmp_path / "cache", {"prior": "a"}) == first
    assert measured == [8.0, 8.0] and case.prior.flow.evaluations.forward == before
