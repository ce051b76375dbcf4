"""D-Flow over ragged molecules: batches, restarts, normalisations, leads; tiny random networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import FunctionCost, PropertyCost
from ctrlgen.domains.molecules import screening
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes, tables
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.generation import Task, generate, steer
from ctrlgen.domains.molecules.lead_optimization import Ball, Given, source_of
from ctrlgen.domains.molecules.molecule_batches import Generated, alphabet_of, fitted, gather
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.properties import Request, parse_request
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.screening import screen, standing
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join, split
from ctrlgen.methods import DFlow
from ctrlgen.methods.projections import Normalize
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.errors import partial_of
from ctrlgen.rows.seeds import further, normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import Power
from ctrlgen.solvers import Midpoint

KINDS, PLACES = 14, 6
COUNTS = torch.tensor([5, 3, 6, 4])
SEEDS = [3, 14, 15, 92]
PLAIN = Settings(steps=2, iterations=2, evaluations=12, draws=1, valence=0.0, restarts=0)
QUICK = replace(PLAIN, steps=3, iterations=6, tolerance=0.02)


def tiny_prior(dtype: torch.dtype = torch.float64) -> Prior:
    """A random geometric transformer on heavy atoms."""
    torch.manual_seed(0)
    shape = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}
    network = build("geot", classes=KINDS, scale=0.2, frequencies=[1 / KINDS] * KINDS, **shape)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.2)
    network = network.to(dtype).eval().requires_grad_(False)
    return Prior(Flow(network, CondOT()), Atoms(PLACES, 3 + KINDS), AtomCodec())


def gyration(signal: Tensor) -> Tensor:
    """A toy property in closed form: the mean square radius in Angstrom², shape (B, 1)."""
    parts = split(signal)
    return (parts.positions.square().sum((1, 2)) / parts.counts).unsqueeze(1)


def wanted(low: Tensor) -> PropertyCost:
    return PropertyCost(gyration, low[:, None], low[:, None])


LOW = torch.tensor([4.0, 2.0, 5.0, 3.0])


def run(settings: Settings = QUICK, rows: list[int] | None = None, **options: object) -> Generated:
    index = torch.tensor(rows if rows is not None else [0, 1, 2, 3])
    seeds = [SEEDS[i] for i in index.tolist()]
    prior = tiny_prior(torch.float32)
    return steer(prior, wanted(LOW[index]), seeds, COUNTS[index], settings, **options)


def test_every_molecule_has_its_own_target_size_and_padding() -> None:
    found = run()
    reached = gyration(found.samples).squeeze(1)
    at_target = found.status == Status.TARGET
    assert at_target.sum() >= 3
    assert ((reached - LOW).abs() <= QUICK.tolerance)[at_target].all()
    assert torch.allclose(found.costs, (reached - LOW).square(), atol=1e-5)
    parts = split(found.samples)
    assert torch.equal(parts.counts, COUNTS)
    assert not found.samples[~parts.mask].any() and not found.controls[~parts.mask].any()
    assert parts.positions.sum(1).abs().max() < 1e-4
    assert (found.objective_calls <= QUICK.evaluations).all()


def test_a_molecule_is_the_same_alone_and_in_any_batch() -> None:
    whole = run()
    for row in range(4):
        alone = run(rows=[row])
        assert torch.allclose(alone.controls[0], whole.controls[row], atol=1e-4)
        assert torch.allclose(alone.samples[0], whole.samples[row], atol=1e-3)
        assert alone.evaluations[0] == whole.evaluations[row]


def test_steering_brings_the_property_nearer_than_the_prior_does() -> None:
    start = run(replace(QUICK, iterations=0))
    assert (run().costs < 0.05 * start.costs).sum() >= 3


def test_the_radius_penalty_uses_the_degrees_of_freedom_of_each_molecule() -> None:
    method = QUICK.method(tiny_prior(), fitted(tiny_prior(), COUNTS).source.mask(COUNTS))
    source = fitted(tiny_prior(), COUNTS).source
    z = source.sample(SEEDS, dtype=torch.float64)
    d = COUNTS * (3 + KINDS) - 3
    r2 = z.flatten(1).square().sum(1)
    assert torch.equal(source.degrees_of_freedom(z), d.double())
    slope = torch.autograd.functional.jacobian(lambda x: method.regularizer(x, source).sum(), z)
    expected = 0.01 * z * (1 - (d - 1) / r2)[:, None, None]
    assert torch.allclose(slope, expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["isotropic", "feature"])
def test_normalised_sources_are_standard_and_every_atom_counts(kind: str) -> None:
    settings = replace(PLAIN, iterations=5, tolerance=1e-4, normalise=kind)
    method = settings.method(tiny_prior(), fitted(tiny_prior(), COUNTS).source.mask(COUNTS))
    assert isinstance(method.projection, Normalize) and method.regularizer is None
    assert method.projection.isotropic == (kind == "isotropic")
    found = run(settings)
    square = found.controls.flatten(1).square().sum(1)
    assert torch.allclose(square, (COUNTS * (3 + KINDS)).float(), rtol=1e-4)


def test_molecules_are_drawn_screened_and_steered_on_the_grid_of_the_prior(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior = tiny_prior(torch.float32)
    prior.grid = Power(power=2.0)
    steps = [1 - (1 - k / 3) ** 2 for k in range(4)]
    settings = replace(QUICK, steps=3, draws=2)
    visited: list[list[float]] = []
    integrate = Midpoint._integrate

    def watched(self: Midpoint, *arguments: Any) -> Tensor:
        visited.append(self.positions().tolist())
        return integrate(self, *arguments)

    monkeypatch.setattr(Midpoint, "_integrate", watched)
    task = Task(
        cost=lambda rows, atoms: wanted(LOW).take(rows), counts=lambda rows, own: COUNTS[rows]
    )
    generate(prior, task, SEEDS, replace(settings, restarts=0, iterations=1))
    assert len(visited) >= 3
    for positions in visited:
        assert positions == pytest.approx(steps, abs=1e-12)


def test_gradients_are_checkpointed_where_the_batch_is_large() -> None:
    small, large = torch.ones(8, 29).bool(), torch.ones(9, 29).bool()
    assert QUICK.method(tiny_prior(), small).solver.gradient == "direct"
    assert QUICK.method(tiny_prior(), large).solver.gradient == "checkpoint"
    checkpointed = QUICK.method(tiny_prior(), torch.ones(4, 6).bool())
    object.__setattr__(checkpointed.solver, "gradient", "checkpoint")
    prior = fitted(tiny_prior(torch.float32), COUNTS)
    first = checkpointed(prior, wanted(LOW), seeds=SEEDS)
    assert torch.allclose(first.costs, run().costs, atol=1e-5)


def task() -> Task:
    return Task(
        cost=lambda rows, counts: wanted(LOW[rows]), counts=lambda rows, seeds: COUNTS[rows]
    )


def test_batches_and_order_change_nothing() -> None:
    prior = tiny_prior(torch.float32)
    settings = replace(QUICK, batch=3)
    batches: list[list[int]] = []
    found = generate(
        prior, task(), SEEDS, settings,
        watch=lambda turn, rows, seeds: batches.append(sorted(rows.tolist())),  # type: ignore[func-returns-value]
    )  # fmt: skip
    together = run()
    assert batches == [[0, 1, 3], [2]]  # by size
    assert torch.equal(found.seeds, torch.tensor(SEEDS)) and torch.equal(found.atoms, COUNTS)
    assert torch.allclose(found.samples, together.samples, atol=1e-3)
    assert found.network.forward_rows == int(found.evaluations.sum())


def test_restarts_try_other_seeds_and_count_everything() -> None:
    prior = tiny_prior(torch.float32)
    settings = replace(PLAIN, restarts=2)
    seen: list[list[int]] = []
    found = generate(
        prior,
        task(),
        SEEDS,
        settings,
        watch=lambda turn, rows, seeds: seen.append(seeds.tolist()),  # type: ignore[func-returns-value]
    )
    assert (found.starts == 3).all()  # random atoms are never a stable molecule
    assert found.history["starts"].tolist() == [[1] * 4, [2] * 4, [3] * 4]
    assert torch.equal(found.history["cost"][-1], found.costs)
    assert bool((found.history["cost"].diff(dim=0) <= 0).all())
    assert torch.equal(found.history["evaluations"][-1], found.evaluations)
    expected = [further(torch.tensor(SEEDS), turn).tolist() for turn in range(3)]
    assert [sorted(seeds) for seeds in seen] == [sorted(seeds) for seeds in expected]
    single = [run_once(prior, turn) for turn in range(3)]
    best = torch.stack([one.costs for one in single]).min(0).values
    assert torch.allclose(found.costs, best, rtol=1e-4)
    assert torch.equal(found.evaluations, sum(one.evaluations for one in single))


def test_a_search_that_is_cut_off_has_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second start the first ones are there; in the first, where it stood."""
    prior, settings = tiny_prior(torch.float32), replace(PLAIN, restarts=2)
    first = run_once(prior, 0)

    def stopping(at: int) -> Any:
        def watch(turn: int, rows: Tensor, seeds: Tensor) -> Any:
            def observe(event: Any) -> None:
                if turn == at:
                    raise KeyboardInterrupt

            return observe

        with pytest.raises(KeyboardInterrupt) as stop:
            generate(prior, task(), SEEDS, settings, watch=watch)
        return partial_of(stop.value)

    later = stopping(1)
    assert torch.equal(later.samples, first.samples) and (later.starts == 1).all()
    assert len(later.history["cost"]) == 1
    begun = stopping(0)
    assert begun.seeds.tolist() == SEEDS and (begun.status == Status.RUNNING).any()
    assert bool(begun.samples.isfinite().all())


def run_once(prior: Prior, turn: int) -> Generated:
    seeds = further(torch.tensor(SEEDS), turn)
    return steer(prior, wanted(LOW), seeds, COUNTS, PLAIN)


def test_a_start_is_the_best_of_its_draws_in_any_batch() -> None:
    prior, draws = tiny_prior(torch.float32), 3
    settings = replace(PLAIN, draws=draws, restarts=1)
    seen: list[list[int]] = []
    found = generate(
        prior,
        task(),
        SEEDS,
        settings,
        watch=lambda turn, rows, seeds: seen.append(sorted(seeds.tolist())),  # type: ignore[func-returns-value]
    )
    for turn in range(2):
        tried = torch.stack([further(torch.tensor(SEEDS), turn * draws + i) for i in range(draws)])
        costs = torch.stack(
            [
                wanted(LOW)(fitted(prior, COUNTS).sample(seeds, Midpoint(settings.steps)))
                for seeds in tried
            ]
        )
        best = tried.gather(0, costs.argmin(0, keepdim=True))[0]
        assert seen[turn] == sorted(best.tolist())
        assert not torch.equal(best, tried[0])
    # draws are solves as well, forward alone
    assert found.network.forward_rows == int(found.evaluations.sum())
    assert (
        found.network.forward_rows - found.network.vjp_rows
        == 2 * settings.steps * 2 * draws * len(SEEDS)
    )
    alone = generate(prior, task(), SEEDS, replace(settings, batch=1))
    assert torch.equal(alone.seeds, found.seeds)
    assert torch.allclose(alone.samples, found.samples, atol=1e-3)


def test_a_screen_ends_at_the_target_of_each_molecule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are looked at in eights; whoever has a whole one at its target draws no more."""
    monkeypatch.setattr(screening, "whole", lambda signals, name: signals.isfinite().all((1, 2)))
    prior, solver = tiny_prior(torch.float32), Midpoint(2)
    far, none = torch.full((4, 1), 1e3), torch.full((4, 1), torch.inf)
    inside = torch.tensor([True, False, True, False])[:, None]  # below 1000 A^2, or beyond
    cost = PropertyCost(gyration, torch.where(inside, -none, far), torch.where(inside, far, none))
    chosen, result = screen(prior, cost, SEEDS, COUNTS, solver, draws=17, target=1e-4)
    assert result.status.tolist() == [Status.TARGET, Status.FINISHED] * 2
    assert result.objective_calls.tolist() == [8, 17, 8, 17]
    assert torch.equal(result.evaluations, 4 * result.objective_calls)
    again = fitted(prior, COUNTS).sample(chosen, solver)
    assert torch.equal(cost(again), cost(result.samples))
    with_restarts = generate(
        prior,
        Task(cost=lambda rows, counts: cost.take(rows), counts=lambda rows, seeds: COUNTS[rows]),
        SEEDS,
        replace(PLAIN, draws=17, evaluations=1),
    )
    # one call of the objective more, of whatever the screen has chosen
    assert with_restarts.objective_calls.tolist() == [9, 18, 9, 18]
    assert with_restarts.network.forward_rows == int(with_restarts.evaluations.sum()) == 4 * 54
    assert torch.equal(with_restarts.seeds, chosen)


def test_whole_molecules_come_first_and_nan_last() -> None:
    ethane = join(torch.tensor([[[0.0, 0, 0], [1.53, 0, 0]]]), torch.tensor([[3, 3]]), KINDS)
    apart = join(torch.tensor([[[0.0, 0, 0], [2.53, 0, 0]]]), torch.tensor([[3, 3]]), KINDS)
    signals = torch.cat((ethane, apart, ethane, apart))
    order = standing(torch.tensor([9.0, 1.0, 4.0, torch.nan]), signals, "qm9-heavy").argsort()
    assert order.tolist() == [2, 0, 1, 3]


def test_valences_are_a_cost_of_steered_molecules() -> None:
    prior = tiny_prior(torch.float32)
    free = run(replace(QUICK, tolerance=1e-6))
    held = steer(prior, wanted(LOW), SEEDS, COUNTS, replace(QUICK, tolerance=1e-6, valence=1.0))
    valence = ValenceCost("qm9-heavy")
    assert torch.allclose(held.costs, wanted(LOW)(held.samples) + valence(held.samples), rtol=1e-4)
    assert valence(held.samples).sum() < valence(free.samples).sum()


def test_a_black_box_score_ranks_the_starts() -> None:
    prior = tiny_prior(torch.float32)
    settings = replace(PLAIN, iterations=1, restarts=2)
    found = generate(
        prior, task(), SEEDS, settings, rank=lambda signals: -gyration(signals).squeeze(1)
    )
    starts = [
        steer(prior, wanted(LOW), further(torch.tensor(SEEDS), turn), COUNTS, settings)
        for turn in range(3)
    ]
    largest = torch.stack([gyration(one.samples).squeeze(1) for one in starts]).max(0).values
    assert torch.allclose(gyration(found.samples).squeeze(1), largest, rtol=1e-4)


def test_a_row_that_turns_nan_keeps_its_start_and_harms_nobody() -> None:
    def poisoned(signal: Tensor, bad: Tensor) -> Tensor:
        return torch.where(bad, torch.nan, 1.0) * (gyration(signal).squeeze(1) - 3).square()

    bad = torch.tensor([False, True, False, False])
    prior, clean = tiny_prior(torch.float32), torch.zeros(4, dtype=torch.bool)
    hurt = steer(prior, FunctionCost(poisoned, {"bad": bad}), SEEDS, COUNTS, QUICK)
    whole = steer(prior, FunctionCost(poisoned, {"bad": clean}), SEEDS, COUNTS, QUICK)
    others = torch.tensor([0, 2, 3])
    assert hurt.status[1] == Status.DIVERGED and not hurt.satisfied[1]
    assert hurt.samples.isfinite().all()
    assert torch.allclose(hurt.samples[others], whole.samples[others], atol=1e-3)


def test_found_rows_are_put_together_and_taken_apart() -> None:
    found = run()
    again = gather([found.take(torch.tensor([i])) for i in range(4)])
    assert all(torch.equal(getattr(found, k), getattr(again, k)) for k in Generated.per_sample)
    assert len(again) == 4
    assert (
        repr(found).startswith("Result(4 samples of 6×17; ") and sum(found.counts().values()) == 4
    )


def test_only_priors_of_molecules_have_an_alphabet() -> None:
    prior = tiny_prior()
    assert alphabet_of(prior) == "qm9-heavy"
    prior.source = Atoms(4, 9)
    with pytest.raises(ValueError, match="prior: expected one of molecules"):
        alphabet_of(prior)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch": 0}, {"restarts": -1}, {"tolerance": 0.0}, {"chi": -1.0},
     {"normalise": "paper"}, {"evaluations": -1}, {"draws": 0}, {"valence": -1.0},
     {"search": "annealing"}, {"generations": 0}, {"draws": 7, "search": "renoising"}],
)  # fmt: skip
def test_settings_refuse(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


# ------------------------------------------------------------------ leads


def lead(dtype: torch.dtype = torch.float64) -> Tensor:
    positions = 1.4 * normal([1, 2], (PLACES, 3), dtype=dtype)
    kinds = torch.tensor([[3, 2, 9, 0, 1, -1], [5, 3, 2, -1, -1, -1]])
    return join(positions, kinds, KINDS)


def test_a_lead_goes_to_a_typical_source_and_comes_back() -> None:
    prior = tiny_prior().bind(counts=torch.tensor([5, 3]))
    method = Settings(steps=20)
    points = source_of(prior, lead(), [7, 8], epsilon=1e-3)
    mask = split(lead()).mask
    assert not points[~mask].any() and points[..., :3].sum(1).abs().max() < 1e-10
    back = prior.generate(points, method.method(prior, mask).solver)
    # The random network is no prior of this molecule; the positions still close to the Euler step.
    assert (back[..., :3] - lead()[..., :3]).abs().max() < 0.1
    other = source_of(prior, lead(), [9, 8], epsilon=1e-3)
    assert (other[0] - points[0]).abs().max() > 0.01 and torch.equal(other[1], points[1])
    with pytest.raises(ValueError, match="epsilon"):
        source_of(prior, lead(), [7, 8], epsilon=1.0)


def test_a_ball_keeps_what_is_inside_and_pulls_back_the_rest() -> None:
    centre, x = normal([1, 2, 3], (4, 5)), normal([4, 5, 6], (4, 5))
    ball = Ball(centre, torch.tensor([0.5, 100.0, 2.0]))
    y = ball(x)
    assert torch.allclose(ball.distance(y), torch.tensor([0.5, float(ball.distance(x)[1]), 2.0]))
    assert torch.equal(y[1], x[1]) and torch.allclose(ball(y), y)
    assert torch.allclose(ball.take(torch.tensor([2]))(x[2:]), y[2:])
    with pytest.raises(ValueError, match="radius"):
        Ball(centre, 0.0)


def test_a_lead_comes_back_from_its_source_points(molecule: Callable[[str], Any]) -> None:
    """Backwards and forwards by the embedded flow: the same atoms, each within 0.05 A."""
    leads = ["CCOC(=O)CC#N", "CC1CC1C(=O)NC", "Oc1cnccc1", "OCC1CCCO1"]
    positions, classes, counts = tensors([molecule(smiles) for smiles in leads], "qm9-heavy")
    signal = join(positions, classes, 14)
    prior = load("qm9-heavy").bind(counts=counts)
    solver = prior.solver(10)
    points = source_of(prior, signal, [0, 1, 2, 3], solver=solver)
    with torch.no_grad():
        back = split(prior.codec.decode(solver(BoundVelocity(prior), points)))
    given = split(signal)
    away = (back.positions - given.positions).norm(dim=2)
    assert torch.equal(back.hard[given.mask], given.hard[given.mask])
    assert float(away[given.mask].max()) < 0.05


def test_lead_runs_stay_in_their_ball() -> None:
    prior = tiny_prior(torch.float32)
    z = fitted(prior, COUNTS).source.sample(SEEDS)
    centre = torch.nn.functional.pad(z, (0, 0, 0, PLACES - z.shape[1]))
    ball = Ball(centre, 0.3)
    found = run(replace(QUICK, iterations=10, tolerance=1e-3), start=centre, ball=ball)
    assert (ball.distance(found.controls) <= 0.3 * (1 + 1e-5)).all()
    assert (ball.distance(found.controls) > 0.01).any()
    free = run(replace(QUICK, iterations=0), start=centre, ball=ball)
    assert torch.allclose(free.controls, centre, atol=1e-6)
    assert (found.costs <= free.costs).all() and (found.costs < free.costs).any()


def test_given_points_must_fit() -> None:
    with pytest.raises(ValueError, match="points: expected shape"):
        DFlow(initializer=Given(torch.zeros(4, 2, 3)))(
            fitted(tiny_prior(torch.float32), COUNTS), wanted(LOW), seeds=SEEDS
        )


# ------------------------------------------------------------------ sizes


def test_sizes_follow_the_tables_of_the_data() -> None:
    table = sizes("qm9-heavy")
    assert table.atoms.tolist() == list(range(1, 10)) and int(table.members.sum()) == 50_000
    assert sizes("qm9").members[sizes("qm9").atoms == 19].item() == 6944  # EDM's histogram of D_b
    large = table.given([parse_request("alpha=90Bohr^3")])
    small = table.given([parse_request("alpha=40Bohr^3")])
    mean = table.atoms.double()
    assert (large @ mean) > (small @ mean) + 2
    assert large.sum().item() == pytest.approx(1) and (large >= 0).all()


def test_draws_of_sizes_have_the_distribution_and_belong_to_the_seed() -> None:
    table = sizes("qm9").only(range(10, 26))
    requests = [parse_request("alpha=70..80Bohr^3"), parse_request("mu<=3D")]
    drawn = table.draw(requests, range(4000))
    share = torch.stack([(drawn == n).double().mean() for n in table.atoms])
    assert (share - table.given(requests)).abs().max() < 4 * math.sqrt(0.25 / 4000)
    assert torch.equal(table.draw(requests, [5, 7]), drawn[torch.tensor([5, 7])])
    with pytest.raises(ValueError, match="atoms: the data have molecules of 3 to 29"):
        sizes("qm9").only([40])


def test_tables_count_what_is_there() -> None:
    counts = torch.tensor([3, 3, 4, 4, 4])
    values = {name: torch.arange(5.0) * scale for name, scale in DEVIATION.items()}
    found = tables(counts, values)
    assert found["atoms"] == [3, 4] and found["members"] == [2, 3]
    assert found["mean"][1][0] == pytest.approx(3 * DEVIATION["alpha"])
    assert sum(found["histogram"]["gap"][1]) == 3
    variance = (2 / 3) * DEVIATION["alpha"] ** 2
    assert found["covariance"][1][0][0] == pytest.approx(variance, rel=1e-5)


def test_far_targets_are_measured_in_deviations() -> None:
    table = sizes("qm9")
    top = float(table.ranges["gap"][:, 1].max())
    far = Request("gap", top + 3 * DEVIATION["gap"], top + 3 * DEVIATION["gap"])
    assert float(table.distances(far).min()) == pytest.approx(3, rel=1e-6)
    assert float(table.distances(parse_request("gap>=6eV")).min()) == 0
    assert float(table.mahalanobis([parse_request("gap=6.8eV")]).min()) < 1
    odd = [parse_request("gap=12eV"), parse_request("homo=-5eV"), parse_request("lumo=0eV")]
    assert float(table.mahalanobis(odd).min()) > 5  # the gap is the difference of the two
    limit = table.limits("mu", torch.tensor([18, 19]), largest=True)
    assert (limit > 5).all() and (limit < 12).all()
