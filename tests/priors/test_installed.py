"""Priors that are installed, conditions, sampling and the grid of a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen import plugins
from ctrlgen.priors.cards import Card, load_weights
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior, available
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.sampling.grids import Power, Uniform
from ctrlgen.solvers import Dopri5, Midpoint
from tests.priors.user_cards import CONFIG, FACTORY, Small, edited, load, saved, user_prior


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="prior: 'mnits' is not known; known are:") as caught:
        load("mnits")
    for name in available():
        assert name in str(caught.value)


def test_an_installed_domain_offers_its_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    shutil.copy(tmp_path / "toy.json", tmp_path / "other.json")
    monkeypatch.setattr(
        plugins, "domains", lambda: {"toys": plugins.Domain("toys", cards=tmp_path)}
    )
    assert sorted(available()) == ["other", "toy"]
    assert load("toy").sample([1]).shape == (1, 4)
    with pytest.raises(UnknownName, match="known are: other, toy"):
        load("mnist")


def test_networks_that_are_no_priors_are_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier has a card too, without a path: it is loaded by its domain alone."""
    file = edited(tmp_path, path={})
    monkeypatch.setattr(
        plugins, "domains", lambda: {"toys": plugins.Domain("toys", cards=tmp_path)}
    )
    assert available() == {}
    with pytest.raises(UnknownName, match="'toy' is not known; known are: none"):
        load("toy")
    network = Small(**CONFIG)
    load_weights(network, Card.read(file), tmp_path)


def test_entry_points_are_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "wrong"

        def load(self) -> str:
            return "no domain"

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    with pytest.raises(TypeError, match="'wrong': expected a Domain, got str"):
        plugins.domains.__wrapped__()


# ------------------------------------------------------------------ conditions


@pytest.fixture
def toy(tmp_path: Path) -> Prior:
    return load(saved(tmp_path))


def test_binding_labels(toy: Prior) -> None:
    bound = toy.bind(label=torch.tensor([0, 2, 3]))
    assert toy.conditions == {}
    seeds = [7, 8, 9]
    samples = bound.sample(seeds)
    for i, label in enumerate([0, 2, 3]):
        alone = toy.bind(label=[label]).sample(seeds[i : i + 1])
        assert torch.allclose(samples[i : i + 1], alone, atol=1e-6)
    assert torch.allclose(samples[2:], toy.sample(seeds[2:]), atol=1e-6)  # the null label
    assert not torch.allclose(samples[:1], toy.sample(seeds[:1]), atol=1e-3)
    kept = bound.take(torch.tensor([1]))
    assert torch.allclose(kept.sample(seeds[1:2]), samples[1:2], atol=1e-6)
    assert "label" in repr(bound)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 4], "label: expected integers from 0 to 3"),
        ([-1], "label: expected integers from 0 to 3"),
        ([1.0, 2.0], "label: expected integers from 0 to 3"),
        (2, r"label: expected one row per sample, shape \(B, ...\), got a scalar"),
    ],
)
def test_labels_out_of_range(toy: Prior, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy.bind(label=label)


def test_unknown_conditions(toy: Prior) -> None:
    with pytest.raises(UnknownName, match="condition: 'colour' is not known; known are: label"):
        toy.bind(colour=[1])


def test_conditions_of_different_sizes() -> None:
    prior = user_prior()
    with pytest.raises(ValueError, match=r"\{'a': 2, 'b': 3\}"):
        prior.bind(a=[1, 2]).bind(b=[1, 2, 3])
    with pytest.raises(ValueError, match=r"disagree"):
        Prior(prior.flow, prior.source, None, {"a": torch.zeros(2), "b": torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.bind(label=[0, 1]), "seeds: expected 2, as many as rows in conditions, got 3"),
        (
            lambda p: Prior(p.flow, MaskedGaussian(torch.ones(2, 4, dtype=torch.bool), 3)),
            "seeds: expected 2, as many as rows in source, got 3",
        ),
    ],
)
def test_wrong_numbers_of_rows(toy: Prior, change: Callable[[Prior], Prior], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(toy).sample([1, 2, 3])
    assert toy.flow.evaluations.forward == 0


def test_wrong_dtype_and_device(toy: Prior) -> None:
    with pytest.raises(ValueError, match=r"dtype: expected torch\.float32.*got torch\.float64"):
        toy.sample([1], dtype=torch.float64)
    with pytest.raises(ValueError, match="device: expected cpu, where the network is, got meta"):
        toy.sample([1], device="meta")
    assert toy.flow.evaluations.forward == 0


# ------------------------------------------------------------------ sampling


def test_samples_belong_to_their_seeds(toy: Prior) -> None:
    together = toy.sample([3, 1, 2])
    assert torch.allclose(toy.sample([1]), together[1:2], atol=1e-6)
    assert torch.equal(toy.sample([3, 1, 2]), together)
    assert not together.requires_grad


def test_generate_is_differentiable_and_inverted_by_encode(toy: Prior) -> None:
    x0 = toy.start([1, 2]).requires_grad_()
    x = toy.generate(x0, Midpoint(20))
    assert torch.autograd.grad(x.sum(), x0)[0].abs().min() > 0
    back = toy.to(torch.float64).encode(
        toy.generate(x0.detach().double(), Dopri5(1e-8, 1e-8)), Dopri5(1e-8, 1e-8)
    )
    assert torch.allclose(back, x0.detach().double(), atol=1e-6)


def test_a_prior_without_parameters_lives_on_the_cpu() -> None:
    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((2,)))
    assert prior.device == torch.device("cpu")
    assert prior.sample([1, 2]).shape == (2, 2)
    assert repr(prior).startswith("Prior(unnamed")


# ------------------------------------------------------------------ the grid of a card


def warped(steps: int, power: float = 2.0) -> list[float]:
    return [1 - (1 - k / steps) ** power for k in range(steps + 1)]


def test_the_grid_of_a_card_is_where_steps_lie(tmp_path: Path) -> None:
    prior = load(edited(tmp_path, grid={"type": "Power", "power": 2.0}))
    assert prior.solver(4).positions().tolist() == pytest.approx(warped(4), abs=1e-15)
    assert prior.solver(4, "checkpoint").gradient == "checkpoint"
    by_hand = prior.generate(prior.start([1, 2]), Midpoint(grid=warped(50)))
    assert torch.equal(prior.sample([1, 2]), by_hand)
    # what the user says wins
    even = prior.sample([1, 2], Midpoint(50))
    assert not torch.allclose(even, by_hand, atol=1e-6)
    assert prior.solver(4, grid=Uniform()).positions().tolist() == Midpoint(4).positions().tolist()
    # steps that suit one clock suit no other
    assert prior.on(CondOT()).solver(4).positions().tolist() == Midpoint(4).positions().tolist()


def test_the_grid_is_saved_and_survives_what_copies_a_prior(tmp_path: Path) -> None:
    flow = Flow(Small(**CONFIG), Cosine(), "v")
    prior = Prior(flow, Gaussian((4,)), grid=Power(7, power=1.25))
    file = prior.save(tmp_path, "toy", factory=FACTORY, config=CONFIG)
    assert json.loads(file.read_text())["grid"]["type"] == "Power"
    again = load(file)
    for copied in (again, again.bind(), again.to(torch.float64), again.take(torch.tensor([0]))):
        expected = warped(3, 1.25)
        assert copied.solver(3).positions().tolist() == pytest.approx(expected, abs=1e-15)


def test_cards_without_a_grid_have_equal_steps(tmp_path: Path) -> None:
    assert repr(load(edited(tmp_path, grid=...)).solver(4)) == repr(Midpoint(4))
