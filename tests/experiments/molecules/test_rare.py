"""Rare and joint targets: what they are, and that every row finds by its own means."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, Parts
from ctrlgen.domains.molecules.uncertainty import UncertaintyCost, features_of
from ctrlgen.experiments.molecules import rare_rows
from ctrlgen.experiments.molecules.rare_figures import table
from ctrlgen.experiments.molecules.rare_rows import (
    JOINT,
    Bench,
    Targets,
    best_of_draws,
    dflow,
    evolution,
    guidance,
    near,
    renoising,
    renoising_steered,
    targets_of,
)
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import further
from tests.experiments.dflow.test_molecules import Still, radius, unlabelled

LABELS = list(PROPERTIES)


def data(number: int, scale: float) -> Molecules:
    """Molecules whose property p is (p + 1) · i · scale for the i-th."""
    values = torch.arange(number) * scale
    properties = {name: (place + 1) * values for place, name in enumerate(LABELS)}
    none = torch.zeros(number, 9, dtype=torch.int64)
    return Molecules(torch.zeros(number, 9, 3), none, none[:, 0] + 9, properties, none[:, 0])


def test_targets_are_quantiles_of_the_tails_values_beyond_and_joint_values_of_other_molecules() -> (
    None
):
    known, held = data(1001, 1.0), data(50, 0.1)
    tail, beyond = (targets_of(kind, 14, known, held) for kind in ("tail", "beyond"))
    place = torch.arange(14) % 6
    low = (torch.arange(14) // 6) % 2 == 0
    assert torch.equal(tail.columns[:, 0], place) and tail.values.shape == (14, 1)
    assert torch.allclose(tail.values[:, 0], (place + 1.0).double() * torch.where(low, 1, 999))
    assert torch.allclose(
        beyond.values[:, 0], (place + 1.0).double() * torch.where(low, -100, 1100)
    )
    reach = near(tail, known)
    for row, column in enumerate(place.tolist()):
        steps = int(0.5 * list(DEVIATION.values())[column] / (column + 1))
        centre = 1 if row // 6 % 2 == 0 else 999
        assert int(reach[row, 0]) == min(1000, centre + steps) - max(0, centre - steps) + 1
    assert (reach[:, 1] == 0).all()  # nine atoms in one place are no molecule
    joint = targets_of("joint", 5, known, held)
    row = joint.values[:, 0] / (0.1 * (1 + LABELS.index(JOINT[0])))
    assert len(row.round().unique()) == 5
    for column, name in enumerate(JOINT):
        assert torch.equal(joint.columns[:, column], torch.full((5,), LABELS.index(name)))
        wanted = 0.1 * (1 + LABELS.index(name)) * row
        assert torch.allclose(joint.values[:, column], wanted, rtol=1e-5)
    assert int(tail.counts.min()) >= 2 and int(tail.counts.max()) <= 9
    sizes = tail.sizes(5)
    assert torch.equal(sizes[:, 0], tail.counts) and sizes.shape == (14, 5)
    typical = targets_of("typical", 3, known, held)
    assert typical.columns.tolist() == [[LABELS.index("gap")]] * 3
    assert typical.values.tolist() == [[6800.0]] * 3 and len(typical.sizes(40).unique()) > 1


def bench() -> Bench:
    prior = Prior(Flow(Still(), CondOT()), Atoms(9, 17), AtomCodec())
    columns = torch.tensor([[1, 2], [2, 3], [1, 3]])
    wanted = torch.tensor([[500.0, 500.0], [2500.0, 2500.0], [900.0, 900.0]]).double()
    settings = Settings(steps=3, draws=2, evaluations=6, restarts=0, valence=0.0, batch=3)
    targets = Targets(columns, wanted, torch.tensor([3, 9, 5]))
    return Bench(prior, radius, radius, targets, settings, [0.02, 1e-9], unlabelled)  # type: ignore[arg-type]


def error(case: Bench, signals: Tensor) -> Tensor:
    """Squared, in deviations, over the two properties of each, from the closed form."""
    mask = (signals[..., 3:] != 0).any(2)
    value = radius(signals[..., :3], signals[..., 3:], mask)[:, 0]
    scale = torch.tensor([DEVIATION[name] for name in LABELS])[case.targets.columns]
    return ((value[:, None] - case.targets.values) / scale).square().sum(1)


def test_every_row_is_nearer_than_a_draw_at_the_evaluations_that_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rare_rows, "POPULATION", 4)
    case = bench()
    (one, first), (drawn, two) = best_of_draws(case, 1), best_of_draws(case, 4)
    assert (first["evaluations"], two["evaluations"]) == (6, 24)
    bound = case.prior.bind(counts=case.targets.counts)
    each = [
        error(case, bound.sample(further(case.seeds, i), case.prior.solver(3))) for i in range(4)
    ]
    assert torch.allclose(error(case, drawn), torch.stack(each).min(0).values, rtol=1e-4)
    steered, spent = dflow(case)
    assert spent["evaluations"] <= (2 + 2 * 6) * 6
    assert (error(case, steered) < 0.05 * error(case, one)).all()
    bred, account = evolution(case, 14)
    assert account["evaluations"] == 14 * 6  # two draws and three generations of four
    assert (error(case, bred) <= torch.stack(each[:2]).min(0).values * (1 + 1e-4)).all()
    assert error(case, bred).sum() < error(case, drawn).sum()
    again, account = renoising(case, 100.0)
    assert account["evaluations"] == 8 * 6 + 3 * 16  # eight draws, three generations
    assert (error(case, again) <= torch.stack(each).min(0).values * (1 + 1e-4)).all()
    mixed, account = renoising(case, 100.0, sizes=True)
    assert account["evaluations"] == 96 and "variants=8" in account["settings"]
    atoms = (mixed[..., 3:] != 0).any(2).sum(1, keepdim=True)
    assert (atoms == case.targets.sizes(8)).any(1).all() and (atoms[:, 0] != atoms[0]).any()
    then, account = renoising_steered(case, 400.0)
    assert account["evaluations"] <= 400 and "search='renoising'" in account["settings"]
    assert (error(case, then) < 0.05 * error(case, one)).all()
    guided, account = guidance(case, 48.0)
    assert account["evaluations"] == 48 and "best of 4" in account["settings"]
    assert error(case, guided).sum() < error(case, one).sum()


def test_the_table_has_means_with_intervals_and_what_dflow_gains() -> None:
    row: dict[str, Any] = {
        "evaluator": [1.0, 3.0, math.nan], "guide": [0.5, 0.5, 0.5], "difference": [0.1] * 3,
        "label": [math.nan] * 3, "met": [True, False, False], "stable": [True] * 3,
        "valid": [True] * 3, "novel": [False] * 3, "sa": [4.0, 5.0, math.nan],
        "strain": [10.0, 30.0, 20.0], "evaluations": 100.0, "seconds": 6.0,
    }  # fmt: skip
    far = {**row, "evaluator": [4.0, 6.5, 2.0]}
    rows = {
        "D-Flow": row,
        "best whole of K": far,
        "evolution": row,
        "guidance": far,
        "renoising": far,
    }
    content = {
        "rows": rows, "counts": [9, 8, 9], "columns": [[4], [1, 0], [0]],
        "targets": [[13.27], [500.0, 70.0], [80.0]], "near": [[13, 0], [5, 4], [90, 80]],
    }  # fmt: skip
    text = table({"kinds": {"tail": content}})
    assert "| D-Flow | 2.00 [1.00, 3.00] (1 of 3 without) | 0.50 | 0.10 | - | 33 % |" in text
    assert "| 4.5 | 20.0 | 100 | 2.0 |" in text
    assert "| gap 500, alpha 70 | 8 | 5 | 4 | 3.00 | 6.50 | 3.00 | 6.50 | 6.50 |" in text
    assert "renoising's error is 2.62 of that of D-Flow (+3.25 MAD [+3.00, +3.50]" in text
    assert (
        "D-Flow's error is 0.38 of that of best whole of K (-3.25 MAD [-3.50, -3.00], 2 of 3"
        in text
    )


def test_how_unsure_the_guide_is_counts_by_the_properties_of_each_molecule() -> None:
    case = bench()
    widths = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]]).expand(3, 6)
    fixed = SimpleNamespace(widths=lambda features: widths[: len(features)])

    class Featured:
        """The radius, and something that a head reads."""

        def __call__(self, *parts: Tensor) -> Tensor:
            return radius(*parts)

        def features(self, parts: Parts, types: str) -> Tensor:
            return parts.positions[:, 0]

    guide = Featured()
    features = features_of(guide, "hard")  # type: ignore[arg-type]
    unsure = UncertaintyCost(features, fixed, case.targets.columns)  # type: ignore[arg-type]
    signals = case.prior.bind(counts=case.targets.counts).sample([0, 1, 2], case.prior.solver(1))
    assert unsure(signals).tolist() == [1 + 4, 4 + 9, 1 + 9]
    assert unsure.take(torch.tensor([2]))(signals[:1]).tolist() == [10]
    plain = case.cost(case.seeds, "hard")(signals)
    dearer = replace(case, weight=0.5, covariance=fixed, guide=guide)  # type: ignore[arg-type]
    cost = dearer.cost(case.seeds, "hard")(signals)
    assert torch.allclose(cost - plain, 0.5 * torch.tensor([5.0, 13.0, 10.0]))
    assert torch.equal(dearer.aim(case.seeds, "hard")(signals), plain)
