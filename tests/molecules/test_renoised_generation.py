"""`generate` by renoising: what breeds, what is steered after it, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_molecules import Cards, Command, ethanol, solved
from torch import Tensor

from ctrlgen.costs import BlackBoxCost, FunctionCost
from ctrlgen.domains.molecules import generation
from ctrlgen.domains.molecules.generation import Task, generate
from ctrlgen.domains.molecules.molecule_batches import Generated, fitted, padded
from ctrlgen.domains.molecules.screening import Standing, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import split
from ctrlgen.methods import RenoisingSearch
from ctrlgen.priors.prior import load
from ctrlgen.rows.seeds import further
from ctrlgen.rows.status import Status
from ctrlgen.runs.spec import same
from ctrlgen.runs.store import Store

SEEDS = torch.tensor([3, 14, 15])
COUNTS = torch.tensor([5, 3, 4])
AIM = torch.tensor([4.0, 2.0, 3.0])
BRED = Settings(
    steps=2, draws=8, search="renoising", generations=2, evaluations=0, restarts=0, valence=0.0
)


def gyration(signal: Tensor) -> Tensor:
    """The mean square radius in Angstrom², shape (B,)."""
    parts = split(signal)
    return parts.positions.square().sum((1, 2)) / parts.counts


def away(x: Tensor, aim: Tensor) -> Tensor:
    return (gyration(x) - aim).square()


def task(rows: list[int]) -> Task:
    index = torch.tensor(rows)
    return Task(
        cost=lambda own, counts: FunctionCost(away, {"aim": AIM[index[own]]}),
        counts=lambda own, seeds: COUNTS[index[own]],
    )


def run(cards: Cards, settings: Settings, rows: list[int] | None = None) -> Generated:
    rows = [0, 1, 2] if rows is None else rows
    return generate(load(cards.prior), task(rows), SEEDS[rows], settings)


def test_it_is_the_renoising_search_in_the_order_of_standing(cards: Cards) -> None:
    found, prior = run(cards, BRED), load(cards.prior)
    method = RenoisingSearch(draws=8, generations=2, solver=prior.solver(2))
    cost = Standing(FunctionCost(away, {"aim": AIM}), "qm9-heavy")
    own = method(fitted(prior, COUNTS), cost, seeds=SEEDS)
    torch.testing.assert_close(found.samples, padded(own.samples, prior))
    torch.testing.assert_close(found.costs, away(found.samples, AIM))
    assert torch.equal(found.seeds, SEEDS) and torch.equal(found.atoms, COUNTS)
    assert torch.equal(found.evaluations, own.evaluations)
    assert (found.objective_calls == 8 + 2 * 8).all() and (found.backward_passes == 0).all()
    assert found.network.forward_rows == int(found.evaluations.sum())


def test_what_misses_is_steered_from_its_source_point_and_never_worse(cards: Cards) -> None:
    elite, found = run(cards, BRED), run(cards, replace(BRED, evaluations=5))
    old, new = (standing(made.costs, made.samples, "qm9-heavy") for made in (elite, found))
    assert (new <= old).all() and (new < old).any()
    torch.testing.assert_close(found.costs, away(found.samples, AIM))
    # the elite's cost, the way back of two midpoint steps and the Euler step before it, L-BFGS
    calls = found.objective_calls - elite.objective_calls - 1
    assert (calls >= 1).all() and (calls <= 5).all()
    assert torch.equal(found.evaluations, elite.evaluations + 5 + 4 * calls)
    assert torch.equal(found.backward_passes, 4 * calls)
    assert found.network.forward_rows == int(found.evaluations.sum())
    assert found.network.vjp_rows == int(found.backward_passes.sum())


def test_a_molecule_is_the_same_alone_and_its_seed_gives_it_again(cards: Cards) -> None:
    settings = replace(BRED, restarts=1, evaluations=2, iterations=1)
    found = run(cards, settings)
    assert found.starts.tolist() == [2, 2, 2]  # random atoms are never a stable molecule
    later = found.seeds >= 2**32
    assert torch.equal(found.seeds, torch.where(later, further(SEEDS, 8), SEEDS))
    for row in range(3):
        alone = run(cards, settings, [row])
        torch.testing.assert_close(alone.samples[0], found.samples[row], atol=1e-3, rtol=0)
        assert alone.evaluations[0] == found.evaluations[row]
    again = generate(load(cards.prior), task([0, 1, 2]), further(SEEDS, 8), settings)
    assert again.starts.tolist() == [1, 1, 1]  # named
    if bool(later.any()):
        torch.testing.assert_close(again.samples[later], found.samples[later], atol=1e-3, rtol=0)


def test_a_molecule_that_is_whole_and_at_its_target_is_not_steered() -> None:
    nothing = Task(
        cost=lambda rows, counts: FunctionCost(lambda x: 0 * x.flatten(1).sum(1)),
        counts=lambda rows, seeds: torch.tensor([5, 6])[rows],
    )
    settings = Settings(steps=5, draws=16, search="renoising", evaluations=3, restarts=0)
    found = generate(load("qm9-heavy"), nothing, [0, 1], settings)
    assert (found.status == Status.TARGET).all() and found.satisfied.all()
    assert (found.objective_calls == 8).all() and (found.evaluations == 8 * 10).all()
    assert (found.backward_passes == 0).all()


def test_scores_are_asked_for_as_often_as_is_told(cards: Cards) -> None:
    asked: list[int] = []

    def score(x: Tensor) -> Tensor:
        asked.append(len(x))
        return gyration(x)

    wanted = replace(task([0, 1, 2]), scores=((BlackBoxCost(score, cache=False), True),))
    for settings in (BRED, replace(BRED, evaluations=3), replace(BRED, search="best-of")):
        asked.clear()
        found = generate(load(cards.prior), wanted, SEEDS, settings)
        steered = found.backward_passes // 4
        assert sum(asked) == int((found.objective_calls - steered + found.starts).sum())
        torch.testing.assert_close(found.costs, away(found.samples, AIM) + gyration(found.samples))


def test_without_steering_the_best_of_the_draws_is_kept(cards: Cards) -> None:
    settings = replace(BRED, search="best-of", draws=5)
    found, prior = run(cards, settings), load(cards.prior)
    seeds = further(SEEDS[:, None], torch.arange(5))
    five = fitted(prior, COUNTS.repeat_interleave(5))
    signals = five.sample(seeds.flatten(), five.solver(2))
    costs = away(signals, AIM.repeat_interleave(5))
    ranked = standing(costs, signals, "qm9-heavy").unflatten(0, (3, 5)).argmin(1)
    assert torch.equal(found.seeds, seeds[torch.arange(3), ranked])
    torch.testing.assert_close(found.costs, costs.unflatten(0, (3, 5))[torch.arange(3), ranked])
    assert (found.evaluations == 5 * 4).all() and (found.backward_passes == 0).all()
    mixed = torch.stack((further(SEEDS[0], 2), SEEDS[1], SEEDS[2]))
    named = generate(prior, task([0, 1, 2]), mixed, settings)
    assert named.evaluations.tolist() == [4, 20, 20]
    torch.testing.assert_close(named.samples[0], padded(signals[2:3], prior)[0])
    torch.testing.assert_close(named.samples[1:], found.samples[1:])


def words(cards: Cards, *more: object) -> list[object]:
    return [
        "generate", "-p", "gap=6.8eV", "-n", 4, "--atoms", "4..5", *cards.options,
        "--search", "renoising", "--draws", 8, "--generations", 2, "--batch", 2, *more,
    ]  # fmt: skip


def test_a_run_by_renoising_goes_on_where_it_was_cut_off(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solved(ctrlgen, *words(cards, "-o", "whole.sdf"))
    assert whole["settings"]["search"] == "renoising" and whole["settings"]["generations"] == 2
    rows = whole["molecules"]
    assert whole["network"]["forward_rows"] == sum(row["evaluations"] for row in rows)
    original, calls = generation.breed, []

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "breed", stopping)
        outcome = ctrlgen(*words(cards, "-o", "out.sdf", "--no-report"))
    assert outcome.code == 130 and "2 of 4 molecules are in" in " ".join(outcome.err.split())
    outcome = ctrlgen("resume", "out.run")
    assert outcome.code == 0, outcome.err
    one, other = Store.open(tmp_path / "out.run"), Store.open(tmp_path / "whole.run")
    for a, b in zip(one.rows(), other.rows(), strict=True):
        assert same(a.tensors, b.tensors)
    assert json.loads((tmp_path / "out.json").read_text())["complete"]


def test_searches_that_do_not_go_together_are_refused(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    few = ctrlgen(*words(cards, "--draws", 4))
    assert few.code == 2 and "draws: expected at least the 8 that renoising breeds" in few.err
    other = ctrlgen(*words(cards, "--search", "annealing"))
    assert other.code == 2 and "search: expected one of" in " ".join(other.err.split())
    front = ["generate", "--pareto", "gap,-mu", "-n", 2, *cards.options]
    pool = ctrlgen(*front, "--search", "renoising")
    assert pool.code == 2 and "search: a front has one pool of draws" in pool.err
    still = ctrlgen(*front, "--evaluations", 0)
    assert still.code == 2 and "evaluations: a front is steered" in still.err
    lead = ctrlgen("optimize", ethanol(tmp_path), "-p", "mu=2D", *cards.options, "--evaluations", 0)
    assert lead.code == 2 and "evaluations: a lead is steered" in lead.err
