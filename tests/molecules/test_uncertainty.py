"""How unsure a guide is: the covariance of its head in closed form, its columns and its cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_molecules import Cards, Command, solved, unsure

from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.states import split
from ctrlgen.domains.molecules.training import WEIGHTS
from ctrlgen.domains.molecules.uncertainty import (
    SCALE,
    UncertaintyCost,
    features_of,
    fit,
    head_covariance,
    measured,
)
from ctrlgen.runs.fingerprint import file_digest
from ctrlgen.runs.json_files import read_json

rdkit = pytest.importorskip("rdkit")


def test_widths_are_found_in_errors_that_grow_with_the_distance() -> None:
    draw, size = torch.Generator().manual_seed(0), 8
    mix = torch.randn(size, size, generator=draw).double()
    features = torch.randn(60_000, size, generator=draw).double() @ mix + 3.0
    exact = torch.linalg.solve(mix.T, (features - 3.0).T).square().sum(0) / size
    u = torch.rand(60_000, 6, generator=draw).double() - 0.5
    laplace = -u.sign() * (1 - 2 * u.abs()).log()
    kappa = torch.tensor([0.0, 1.0, 10.0, 1.0, 1.0, 1.0]).double()
    errors = 0.3 * laplace * (1 + kappa * exact[:, None]).sqrt()
    known, valid, test = features[:20_000], slice(20_000, 40_000), slice(40_000, None)
    found = fit(known, features[valid], errors[valid])
    q = found.distance(features[test].float())
    assert torch.allclose(q.double(), exact[test], rtol=0.08, atol=0.02)
    assert found.kappa[0] < 0.05 and 0.7 < found.kappa[1] < 1.5 and found.kappa[2] > 4
    # of Laplace's law, 68.27 % lie within 1.148 of its width
    assert found.sigma[1] * (1 + found.kappa[1]).sqrt() == pytest.approx(
        0.3 * 1.148 * 2**0.5, rel=0.03
    )
    told = measured(found, features[test], errors[test])
    for row in told.values():
        assert row["within 68 %"] == pytest.approx(0.6827, abs=0.012)
        assert row["within 95 %"] == pytest.approx(0.9545, abs=0.006)
    assert told["homo"]["error, least sure fifth"] > told["homo"]["error, others"]


def test_the_embedded_guide_knows_how_unsure_it_is() -> None:
    known = head_covariance("qm9-heavy-guide")
    assert known is not None and known.whiten.shape == (192, 192)
    card = read_json(WEIGHTS / "quality" / "qm9-heavy-guide.head.json")
    assert card["weights"]["sha256"] == file_digest(WEIGHTS / card["weights"]["name"])
    assert card["of"]["sha256"] == file_digest(WEIGHTS / "qm9-heavy-guide.safetensors")
    guide = regressor("qm9-heavy-guide")
    # benzene, and the same carbons in a heap
    ring = torch.linspace(0, 2 * torch.pi, 7)[:6]
    flat = 1.39 * torch.stack((ring.cos(), ring.sin(), 0 * ring), 1)
    heap = 0.4 * flat
    kinds = torch.zeros(6, 14)
    kinds[:, 1] = 1.0  # carbon with one hydrogen
    signals = torch.stack([torch.cat((x, kinds), 1) for x in (flat, heap)])
    widths = known.widths(features_of(guide, "hard")(signals))
    assert (widths[1] > widths[0]).all()
    column = list(PROPERTIES).index("gap")
    values = UncertaintyCost(features_of(guide, "hard"), known, [column])(signals)
    assert torch.allclose(values, widths[:, column].square())
    eight = signals.repeat(4, 1, 1)
    assert torch.equal(
        guide.features(split(eight), "hard")[:2], guide.features(split(signals), "hard")
    )


def test_uncertainty_is_a_column_and_a_weight(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    words = ["-p", "gap=6.8eV", "-n", 2, "--draws", 1, *cards.options, "--atoms", 5, "--no-report"]
    refused = ctrlgen("generate", *words, "--uncertainty", 2, "-o", "a.sdf")
    assert refused.code == 2 and "has no head covariance" in " ".join(refused.err.split())
    with unsure(cards.guide) as covariance:
        content = solved(ctrlgen, "generate", *words, "--uncertainty", 2, "-o", "a.sdf")
        designer = Designer(
            wish_of(["gap=6.8eV"]), str(cards.prior), guide=str(cards.guide), uncertainty=2.0
        )
        guide, counts = regressor(str(cards.guide)), torch.tensor([5, 5])
        signal = designer.prior.bind(counts=counts).sample([0, 1])
        cost = designer.task().cost(torch.arange(2), counts)
        plain = designer.wish.cost(designer.guide, designer.name, counts)
        widths = covariance.widths(features_of(guide, "hard")(signal))[:, 1]
        assert torch.allclose(cost(signal), plain(signal) + 2 * widths.square(), rtol=1e-4)
        least = float(covariance.sigma[1] * SCALE[1])
        assert all(row["uncertainty gap (meV)"] >= 0.99 * least for row in content["molecules"])
        covariance.save(cards.guide.with_suffix(".head.safetensors"), "those of others")
        refused = ctrlgen("generate", *words, "--uncertainty", 2, "-o", "b.sdf")
        assert refused.code == 2 and "belongs to other weights" in " ".join(refused.err.split())
    with pytest.raises(ValueError, match="uncertainty: expected a property"):
        Designer(wish_of(None, formula="C3H8"), str(cards.prior), uncertainty=1.0)
