"""Alignment, batches, loss, resuming and cards of the molecular trainings."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import ctrlgen
from ctrlgen.domains.molecules import training
from ctrlgen.domains.molecules.alignment import align
from ctrlgen.domains.molecules.batches import Batches, Molecule
from ctrlgen.domains.molecules.layers import centred
from ctrlgen.domains.molecules.networks import Estimate
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.trainer import PriorTrainer, Recipe, molecular_loss
from ctrlgen.priors import codecs
from ctrlgen.priors.codecs import Codec
from ctrlgen.priors.factories import part_of
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Power
from ctrlgen.solvers import Midpoint
from ctrlgen.training.runs import run
from ctrlgen.training.session import continue_from, export

RECIPE = Recipe(
    name="tiny",
    dataset="qm9-heavy",
    config={"network": "geot", "classes": 3, "width": 8, "depth": 1, "pair": 4, "vectors": 2}
    | {"heads": 2, "bands": 6},
    batch=4,
    places=(3, 5),
)


@pytest.fixture
def molecules() -> Molecule:
    draw = torch.Generator().manual_seed(3)
    counts = torch.tensor([5, 3, 2, 4] * 6 + [1])
    classes = torch.randint(3, (25, 5), generator=draw)
    classes[torch.arange(5) >= counts.unsqueeze(1)] = -1
    positions = centred(torch.randn(25, 5, 3, generator=draw), classes >= 0)
    return Molecule(positions, classes, counts)


def trainer(molecules: Molecule, seed: int = 0, **changes: object) -> PriorTrainer:
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    made = PriorTrainer(recipe, molecules, molecules, seed)
    made.samples = 4
    return made


def test_alignment_finds_the_best_order_and_rotation() -> None:
    draw = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    data = centred(torch.randn(2, 4, 3, generator=draw), mask)
    noise = centred(torch.randn(2, 4, 3, generator=draw), mask)
    found = align(noise, data, mask.sum(1), rounds=20)
    for row, n in enumerate((4, 3)):
        x, y, before = data[row, :n], found[row, :n], noise[row, :n]
        # The same points: their distances are those of some order of the noise.
        distances = torch.cdist(y, y)
        orders = [list(order) for order in itertools.permutations(range(n))]
        assert any(
            torch.allclose(distances, torch.cdist(before[o], before[o]), atol=1e-5) for o in orders
        )
        cost = (x - y).square().sum()
        assert cost < (x - before).square().sum()
        # No other order, and no small turn, does better.
        assert all(cost <= (x - y[o]).square().sum() + 1e-5 for o in orders)
        for axis in range(3):
            generator = torch.linalg.cross(torch.eye(3)[axis].expand(n, 3), y)
            assert abs(float((generator * x).sum())) < 1e-3
        assert not found[row, n:].any()


def test_alignment_undoes_a_rotation_and_an_order() -> None:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(1, 6, dtype=torch.bool)
    data = centred(torch.randn(1, 6, 3, generator=draw), mask)
    turned, _ = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(3, 3, generator=draw))
    turned = turned * torch.sign(torch.diag(turned))  # near the identity: order first
    noise = data[:, torch.tensor([2, 0, 1, 5, 4, 3])] @ turned
    torch.testing.assert_close(align(noise, data, torch.tensor([6])), data, rtol=0, atol=1e-5)


def test_batches_are_whole_epochs_of_one_bucket(molecules: Molecule) -> None:
    counts = molecules.counts
    batches = Batches(counts, (3, 5), 4, seed=0)
    epoch = [batches(step) for step in range(batches.length)]
    rows = torch.cat([index for _, index in epoch])
    assert len(rows) == 24 and len(set(rows.tolist())) == 24
    assert all(int(counts[index].max()) <= places for places, index in epoch)
    assert all(int(counts[index].min()) > 3 for places, index in epoch if places == 5)
    assert {places for places, _ in epoch} == {3, 5}
    following = [batches(step + batches.length)[1].tolist() for step in range(batches.length)]
    assert following != [index.tolist() for _, index in epoch]
    again = Batches(counts, (3, 5), 4, seed=0)
    assert torch.equal(again(2)[1], epoch[2][1])
    with pytest.raises(ValueError, match="places: expected up to 5 atoms"):
        Batches(counts, (3, 4), 4, seed=0)
    with pytest.raises(ValueError, match="batch: expected at most 25"):
        Batches(counts, (5,), 26, seed=0)


def test_loss_of_a_perfect_and_of_an_ignorant_network(molecules: Molecule) -> None:
    made = trainer(molecules)
    group = Molecule(*(part[:4] for part in molecules))
    data = made.states(group)
    noise = made.noise(data, group, torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9, 0.99])
    time = t[:, None, None]
    spread = (time.square() + (1 - time).square()).sqrt()

    def perfect(x: Tensor, kind: Tensor, t: Tensor, mask: Tensor) -> Estimate:
        # x̂_1 = (t/s²) x + ((1 - t)/s) F solved for F
        residual = (data[..., :3] - time / spread.square() * x) * spread / (1 - time)
        return Estimate(residual, 1000 * data[..., 3:], None)

    position, kind, bond = molecular_loss(perfect, data, noise, group.classes, t, 0.3)
    assert not bond.any()
    torch.testing.assert_close(position, torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(kind, torch.zeros(4), atol=1e-6, rtol=0)

    def ignorant(x: Tensor, kind: Tensor, t: Tensor, mask: Tensor) -> Estimate:
        return Estimate(torch.zeros_like(x), torch.zeros_like(kind), None)

    position, kind, _ = molecular_loss(ignorant, data, noise, group.classes, t, 0.3)
    torch.testing.assert_close(kind, 0.3 * torch.full((4,), 3.0).log())
    target = ((1 - time) * data[..., :3] - time * noise[..., :3]) / spread
    count = group.counts.float()
    torch.testing.assert_close(position, target.square().sum((1, 2)) / (3 * count))


def test_bonds_are_taught_when_asked(molecules: Molecule) -> None:
    group = Molecule(*(part[:4] for part in molecules))
    orders = torch.randint(4, (4, 5, 5), generator=torch.Generator().manual_seed(0))
    made = trainer(molecules)
    data = made.states(group)

    def sure(x: Tensor, kind: Tensor, t: Tensor, mask: Tensor) -> Estimate:
        bonds = torch.nn.functional.one_hot(orders, 4).float() * 2
        return Estimate(torch.zeros_like(x), torch.zeros_like(kind), bonds)

    parts = (data, torch.randn_like(data), group.classes, torch.rand(4))
    bond = molecular_loss(sure, *parts, 0.3, orders)[2]
    expected = torch.tensor(2.0).exp().add(3).log() - 2  # log-sum-exp of (2, 0, 0, 0) minus 2
    torch.testing.assert_close(bond, expected.expand(4))

    # The table of bonds knows the classes of QM9 alone.
    config = {**RECIPE.config, "classes": 5, "bonds": True}
    taught = trainer(molecules, dataset="qm9", config=config, bonds_weight=0.5)
    taught.loss(torch.Generator().manual_seed(0)).backward()
    assert taught.network.head_bond.weight.grad.any()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="bonds_weight: expected 0"):
        replace(RECIPE, bonds_weight=0.5)


def test_states_are_those_of_the_codec(molecules: Molecule) -> None:
    made = trainer(molecules)
    card = training.card_of(made, "")
    codec = part_of(codecs, Codec, "codec", card.codec, None)
    signal = join(molecules.positions, molecules.classes, 3)
    torch.testing.assert_close(made.states(molecules), codec.encode(signal))


def test_noise_is_centred_and_alignment_shortens_it(molecules: Molecule) -> None:
    plain, aligned = trainer(molecules, align=False), trainer(molecules)
    data = plain.states(molecules)
    far, near = (
        m.noise(data, molecules, torch.Generator().manual_seed(0)) for m in (plain, aligned)
    )
    assert float(far[..., :3].sum(1).abs().max()) < 1e-5
    assert torch.equal(far[..., 3:], near[..., 3:])
    distance = [(data - noise)[..., :3].square().sum() for noise in (far, near)]
    assert distance[1] < 0.8 * distance[0]


def test_single_atoms_are_left_out(molecules: Molecule) -> None:
    made = trainer(molecules)
    assert len(made.data.counts) == 24 and int(made.data.counts.min()) == 2


E3NN = {"network": "e3nn", "classes": 3, "scalars": 8, "vectors": 4, "tensors": 2, "depth": 1}


@pytest.mark.parametrize("config", [RECIPE.config, E3NN], ids=["geot", "e3nn"])
def test_training_lowers_the_loss(molecules: Molecule, config: dict[str, object]) -> None:
    if config is E3NN:
        pytest.importorskip("e3nn")
    made = trainer(molecules, lr=0.01, config=config)
    before = made.validate()
    run(made, steps=40)
    assert made.validate() < 0.9 * before


@pytest.mark.parametrize(("places", "dynamic"), [((29,), False), ((12, 29), True)])
def test_shapes_are_variables_to_the_compiler_where_batches_differ(
    molecules: Molecule, places: tuple[int, ...], dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, **options: asked.append(options))
    assert trainer(molecules, places=places).compile()
    assert asked and all(options == {"dynamic": dynamic} for options in asked)


def test_a_resumed_run_is_the_whole_run(molecules: Molecule, tmp_path: Path) -> None:
    whole, part, rest = (trainer(molecules) for _ in range(3))
    for i in range(6):
        whole.step(i / 6)
    for i in range(3):
        part.step(i / 6)
    part.save(tmp_path / "checkpoint.safetensors")
    rest.load(tmp_path / "checkpoint.safetensors")
    for i in range(3, 6):
        rest.step(i / 6)
    for a, b in zip(whole.average.parameters(), rest.average.parameters(), strict=True):
        assert torch.equal(a, b)
    # A checkpoint from before a setting existed is one with its default.
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        state = json.loads(file.metadata()["state"])
    del state["recipe"]["bonds_weight"]
    save_file(tensors, tmp_path / "older.safetensors", {"state": json.dumps(state)})
    trainer(molecules).load(tmp_path / "older.safetensors")
    with pytest.raises(ValueError, match="a checkpoint of another recipe or seed"):
        trainer(molecules, seed=1).load(tmp_path / "checkpoint.safetensors")


def test_the_card_loads_and_generates(molecules: Molecule, tmp_path: Path) -> None:
    made = trainer(molecules)
    made.step(0.5)
    export(made, training.card_of(made, "ctrlgen train molecules/tiny"), tmp_path)
    prior = ctrlgen.load(tmp_path / "tiny.json").bind(counts=[5, 2])
    signal = prior.sample([3, 4], Midpoint(2))
    assert signal.shape == (2, 5, 6) and bool(signal.isfinite().all())
    assert not signal[1, 2:].any() and signal[1, :2].any()
    kept = load_file(tmp_path / "tiny.safetensors")
    assert all(value.dtype == torch.float16 for value in kept.values())
    recipe = json.loads((tmp_path / "tiny.json").read_text())["recipe"]
    assert recipe["steps"] == 1 and recipe["lr"] == 4e-3 and "config" not in recipe


def test_training_goes_on_from_embedded_weights(molecules: Molecule, tmp_path: Path) -> None:
    made = trainer(molecules)
    made.step(0.5)
    card = training.card_of(made, "")
    export(made, card, tmp_path)
    fresh = trainer(molecules, lr=1e-3)
    continue_from(fresh, card, tmp_path)
    assert fresh.steps == 1 and fresh.earlier[0]["lr"] == 4e-3
    for a, b in zip(made.average.parameters(), fresh.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_train_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of \[.*'qm9'"):
        training.train("qm7", minutes=1)
    with pytest.raises(ValueError, match="budget: expected one of minutes and steps"):
        training.train("qm9-heavy", minutes=1, steps=1)


def test_quality_is_the_stability_of_draws_of_the_averaged_weights(
    molecules: Molecule, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(molecules, config={**RECIPE.config, "classes": 14})
    made.samples, made.held = 6, Molecule(*(part[:1] for part in made.held))
    asked = []

    def sample(prior: Prior, seeds: Tensor, solver: Midpoint) -> Tensor:
        weights = prior.flow.network.state_dict()  # type: ignore[attr-defined]
        expected = made.average.state_dict()
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        counts = prior.conditions["counts"]
        asked.append((seeds.tolist(), counts.tolist(), prior.grid))
        # Methane everywhere, in a row where there are several: stable apart, not close together.
        far = torch.arange(int(counts.max())) * (4.0 if counts.max() < 5 else 1.2)
        positions = torch.zeros(len(seeds), len(far), 3)
        positions[..., 0] = far
        classes = torch.full((len(seeds), len(far)), 4)
        classes[torch.arange(len(far)) >= counts.unsqueeze(1)] = -1
        return join(positions, classes, 14)

    monkeypatch.setattr(Prior, "sample", sample)
    with torch.no_grad():
        for part in made.average.parameters():
            part.add_(0.01)
    before = [part.detach().clone() for part in made.network.parameters()]
    crowded = made.quality()
    ((seeds, counts, grid),) = asked
    assert counts == sorted(counts) == sorted(molecules.counts[:6].tolist())
    assert sorted(seeds) == list(range(6)) and grid == Power(power=1.5)
    assert crowded == {"molecule_stable": 0.0, "atom_stable": 0.0}
    made.samples, made.data = 3, Molecule(*(part[1:4] for part in made.data))
    assert made.quality() == {"molecule_stable": 1.0, "atom_stable": 1.0}
    assert all(map(torch.equal, before, made.network.parameters()))


def test_quality_samples_the_network_in_training(molecules: Molecule) -> None:
    found = trainer(molecules).quality()
    assert set(found) == {"molecule_stable", "atom_stable"}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize("name", sorted(training.RECIPES))
def test_every_recipe_has_a_variant_for_a_card(name: str) -> None:
    recipe = training.RECIPES[name]
    card = recipe.on("cuda")
    assert card.compiled and card.batch >= 4 * recipe.batch and len(card.places) <= 4
    assert card.config == recipe.config and card.places[-1] == recipe.places[-1]
