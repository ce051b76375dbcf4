"""The molecular priors as users meet them: loading, binding atom counts, ragged batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen.domains.molecules.molecule_batches import fitted, whole
from ctrlgen.domains.molecules.networks import GeoT, build
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, split
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import UnknownName
from ctrlgen.solvers import Midpoint

CONFIG = {"network": "geot", "classes": 4, "scale": 0.2, "frequencies": [0.25] * 4}
CONFIG |= {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}
LIMITS = {"counts": {"least": 2, "most": 5}}


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    torch.manual_seed(0)
    network = build(**CONFIG)
    assert isinstance(network, GeoT)
    for head in (network.head_vector, network.head_edge, network.head_class):
        nn.init.normal_(head.weight, std=0.5)
    prior = Prior(Flow(network, CondOT(), "velocity"), Atoms(5, 7), AtomCodec(1.4, 0.2))
    file = prior.save(
        tmp_path,
        "tiny",
        factory="ctrlgen.domains.molecules.networks:build",
        config=CONFIG,
        conditions=LIMITS,
    )
    return ctrlgen.load(file)


def test_classes_of_another_package_are_saved_and_loaded(prior: Prior) -> None:
    assert prior.card is not None
    module = "ctrlgen.domains.molecules.states"
    assert prior.card.source == {"type": f"{module}:Atoms", "places": 5, "features": 7}
    assert prior.card.codec == {"type": f"{module}:AtomCodec", "position": 1.4, "one_hot": 0.2}
    assert prior.card.path == {"type": "CondOT"}
    assert isinstance(prior.source, Atoms) and isinstance(prior.codec, AtomCodec)


def test_binding_counts_reaches_network_and_source(prior: Prior) -> None:
    bound = prior.bind(counts=[5, 2, 4])
    assert isinstance(bound.source, Atoms) and isinstance(prior.source, Atoms)
    assert bound.source.counts is not None and prior.source.counts is None
    x0 = bound.start([1, 2, 3])
    assert bound.source.degrees_of_freedom(x0).tolist() == [32, 11, 25]
    parts = split(bound.generate(x0, Midpoint(3)))
    assert parts.counts.tolist() == [5, 2, 4] and not parts.classes[1, 2:].any()
    assert float(parts.positions.sum(1).abs().max()) < 1e-4
    part = bound.take(torch.tensor([2]))
    assert part.conditions["counts"].tolist() == [4]
    assert isinstance(part.source, Atoms) and part.source.counts.tolist() == [4]  # type: ignore[union-attr]
    again = bound.bind(counts=[3])
    assert isinstance(again.source, Atoms) and again.source.counts.tolist() == [3]  # type: ignore[union-attr]


def test_unbound_molecules_are_as_large_as_they_get(prior: Prior) -> None:
    assert split(prior.sample([1, 2], Midpoint(2))).counts.tolist() == [5, 5]


def test_a_sample_does_not_see_its_batch(prior: Prior) -> None:
    prior = prior.to(torch.float64)
    together = prior.bind(counts=[5, 2, 4]).sample([1, 2, 3], Midpoint(4), dtype=torch.float64)
    for row, (n, seed) in enumerate([(5, 1), (2, 2), (4, 3)]):
        alone = prior.bind(counts=[n]).sample([seed], Midpoint(4), dtype=torch.float64)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-9, atol=1e-9)


def test_the_source_point_of_a_molecule_is_found_again(prior: Prior) -> None:
    bound = prior.to(torch.float64).bind(counts=[5, 3])
    solver = Midpoint(40)
    x0 = bound.start([4, 5], dtype=torch.float64)
    found = bound.encode(bound.generate(x0, solver), solver)
    assert bool(found.isfinite().all()) and not found[1, 3:].any()


def test_gradients_reach_the_source_and_stay_on_it(prior: Prior) -> None:
    bound = prior.to(torch.float64).bind(counts=[5, 3])
    x0 = bound.start([4, 5], dtype=torch.float64).requires_grad_()
    signal = bound.generate(x0, Midpoint(4))

    def cost(x: Tensor) -> Tensor:
        parts = split(x)
        return parts.positions.square().sum((1, 2)) + parts.probabilities[..., 0].sum(1)

    (gradient,) = torch.autograd.grad(cost(signal).sum(), x0)
    assert bool(gradient.isfinite().all()) and not gradient[1, 3:].any()
    torch.testing.assert_close(bound.source.project(gradient), gradient, rtol=0, atol=1e-9)


@pytest.mark.parametrize("counts", [[1], [6], [2.5]])
def test_impossible_counts_are_named(prior: Prior, counts: list[int]) -> None:
    with pytest.raises(ValueError, match="counts: expected integers from 2 to 5"):
        prior.bind(counts=counts)


def test_seeds_and_conditions_must_agree(prior: Prior) -> None:
    with pytest.raises(ValueError, match="seeds: expected 2"):
        prior.bind(counts=[3, 4]).start([1])
    with pytest.raises(UnknownName, match="label"):
        prior.bind(label=[1])


def test_molecules_put_back_to_matched_noise_are_molecules_again() -> None:
    """Of 20 draws, 9 heavy atoms each, back at t = 0.8 and on from there; the flow learned from
    noise that was matched to its molecules, and with other noise they break."""
    prior, seeds, solver = ctrlgen.load("qm9-heavy"), range(20), Midpoint(grid=(0, 0.4, 0.75, 1))
    bound = fitted(prior, torch.full((20,), 9))
    with torch.no_grad():
        x = bound.codec.encode(bound.sample(seeds, bound.solver(5)))
        noise = bound.source.sample(seeds, 1)
        shares = []
        for each in (noise, bound.source.coupled(noise, x)):
            put = bound.flow.noised(x, each, 0.8, 0.2)
            again = solver(BoundVelocity(bound), put, 0.8, 1.0)
            shares.append(float(whole(bound.codec.decode(again), "qm9-heavy").double().mean()))
    assert shares[1] > 0.6 and shares[0] < 0.35
