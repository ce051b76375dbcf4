"""Property regressors: heads, baseline, disturbances, training, embedded weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules import training
from ctrlgen.domains.molecules.batches import Molecule, one_hot
from ctrlgen.domains.molecules.layers import centred
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressor_trainer import RegressorRecipe, RegressorTrainer
from ctrlgen.domains.molecules.regressors import (
    PropertyNetwork,
    build,
    composition_baseline,
    load_regressor,
)
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.priors.cards import Card, load_weights
from ctrlgen.training.session import export

MEAN = [75.0, 6800.0, -6500.0, 300.0, 2.7, 32.0]
DEVIATION = [6.0, 1000.0, 400.0, 1000.0, 1.2, 3.2]
TRUNK = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}
RECIPE = RegressorRecipe(
    name="tiny-guide",
    dataset="qm9-heavy",
    split="D_b",
    config={"classes": 3, **TRUNK},
    batch=8,
    jitter=0.05,
    soften=0.3,
    places=(5,),
)


@pytest.fixture
def molecules() -> Molecule:
    draw = torch.Generator().manual_seed(3)
    counts = torch.tensor([5, 3, 2, 4] * 6)
    classes = torch.randint(3, (24, 5), generator=draw)
    classes[torch.arange(5) >= counts.unsqueeze(1)] = -1
    return Molecule(centred(torch.randn(24, 5, 3, generator=draw), classes >= 0), classes, counts)


@pytest.fixture
def targets(molecules: Molecule) -> Tensor:
    scale = molecules.counts.unsqueeze(1) - 3.5
    return torch.tensor(MEAN) + scale * torch.tensor(DEVIATION)


def trainer(molecules: Molecule, targets: Tensor, **changes: object) -> RegressorTrainer:
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    return RegressorTrainer(recipe, molecules, targets, molecules, targets, MEAN, DEVIATION)


def network() -> PropertyNetwork:
    return build(classes=3, mean=MEAN, deviation=DEVIATION, **TRUNK)


def test_baseline_is_least_squares() -> None:
    counts = torch.randint(0, 9, (200, 3), generator=torch.Generator().manual_seed(0)).float()
    slope = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    found = composition_baseline(counts, counts @ slope.T + torch.tensor([4.0, -1.0]))
    torch.testing.assert_close(found[:, :3].float(), slope, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, 3].float(), torch.tensor([4.0, -1.0]), atol=5e-3, rtol=0)


def test_the_untrained_network_knows_composition(molecules: Molecule, targets: Tensor) -> None:
    made = trainer(molecules, targets)
    for part in made.average.parameters():
        part.zero_()
    errors = made.errors(molecules, targets) / torch.tensor(DEVIATION)
    assert float(errors[[0, 2, 3, 5]].max()) < 1e-3  # alpha, homo, lumo, cv are linear here


def test_the_gap_is_the_difference_of_the_orbitals(molecules: Molecule) -> None:
    made = network()
    with torch.no_grad():
        made.head_orbital[2].weight[2] = 0
        made.head_orbital[2].bias[2] = 0
    parts = split(join(molecules.positions, molecules.classes, 3))
    found = dict(zip(PROPERTIES, made.of(parts).T, strict=True))
    torch.testing.assert_close(found["gap"], found["lumo"] - found["homo"], rtol=1e-4, atol=0.1)
    assert float(found["gap"].std()) > 0.1


def test_the_dipole_does_not_move_with_the_molecule(molecules: Molecule) -> None:
    made = network().double()
    parts = split(join(molecules.positions, molecules.classes, 3).double())
    far = parts._replace(positions=parts.positions + 100)
    torch.testing.assert_close(made.of(far), made.of(parts), rtol=1e-9, atol=1e-9)
    assert float(made.of(parts)[:, 4].std()) > 1e-3


def test_types_of_a_signal(molecules: Molecule) -> None:
    made = network()
    signal = join(molecules.positions, molecules.classes, 3)
    blurred = torch.where(signal != 0, signal, 0.2 * (signal != 0).any(2, keepdim=True))
    blurred = torch.cat((signal[..., :3], blurred[..., 3:]), dim=2).requires_grad_()
    exact = made.of(split(signal))
    found = {kind: made.of(split(blurred), kind) for kind in ("straight-through", "soft", "hard")}
    torch.testing.assert_close(found["straight-through"], exact, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found["hard"], exact, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(found["soft"], exact)

    def gradient(kind: str) -> Tensor:
        return torch.autograd.grad(found[kind].sum(), blurred)[0][..., 3:]

    assert gradient("straight-through").any() and gradient("soft").any()
    assert not gradient("hard").any()
    with pytest.raises(ValueError, match="types: expected 'straight-through'"):
        made.of(split(signal), "round")  # type: ignore[arg-type]


def test_half_of_the_molecules_are_disturbed(molecules: Molecule, targets: Tensor) -> None:
    made = trainer(molecules, targets)
    many = Molecule(*(part.repeat(40, *[1] * (part.ndim - 1)) for part in molecules))
    positions, classes = made.disturbed(many, torch.Generator().manual_seed(0))
    moved = (positions - many.positions).flatten(1).std(dim=1)
    touched = moved > 0
    assert float(touched.float().mean()) == pytest.approx(0.5, abs=0.06)
    assert float(moved.max()) < 0.1
    exact = one_hot(many.classes, made.kinds)
    assert torch.equal(classes[~touched], exact[~touched])
    real = (many.classes >= 0) & touched.unsqueeze(1)
    torch.testing.assert_close(classes.sum(2)[real], torch.ones(int(real.sum())))
    assert float((classes * exact).sum(2)[real].min()) > 0.69
    clean = trainer(molecules, targets, jitter=0.0, soften=0.0)
    assert torch.equal(clean.disturbed(many, torch.Generator())[0], many.positions)


def test_training_lowers_the_error(molecules: Molecule, targets: Tensor) -> None:
    made = trainer(molecules, targets, lr=0.01)
    before = made.validate()
    for i in range(30):
        made.step(i / 30)
    assert made.validate() < 0.8 * before


def test_weights_and_exact_numbers_return(
    molecules: Molecule, targets: Tensor, tmp_path: Path
) -> None:
    made = trainer(molecules, targets)
    made.step(0.5)
    export(made, training.card_of(made, "ctrlgen train molecules/tiny-guide"), tmp_path)
    card = Card.read(tmp_path / "tiny-guide.json")
    again = build(**card.config)
    load_weights(again, card, tmp_path)
    assert torch.equal(again.baseline, made.network.baseline)  # type: ignore[arg-type]
    parts = split(join(molecules.positions, molecules.classes, 3))
    expected = made.average(parts.positions, parts.straight_through, parts.mask)
    deviation = torch.tensor(DEVIATION)
    assert float(((again.of(parts) - expected) / deviation).abs().max()) < 2e-2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mean": [1.0]}, "mean, deviation: expected 6, got 1, 6"),
        ({"baseline": [[1.0]] * 4}, r"baseline: expected shape \(4, 4\)"),
    ],
)
def test_wrong_configurations_are_named(change: dict[str, object], match: str) -> None:
    options = {"classes": 3, "mean": MEAN, "deviation": DEVIATION, **TRUNK, **change}
    with pytest.raises(ValueError, match=match):
        build(**options)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected positions \(B, N, 3\)"):
        network()(torch.zeros(2, 4, 3), torch.zeros(2, 4, 5), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="name: expected a property regressor"):
        load_regressor("mnist")
