"""The optimal-control experiment: verdicts by hand, and all of it on two images and few weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import ctrlgen
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.networks import build
from ctrlgen.experiments.optimal_control import images, images_settings, images_verdicts
from ctrlgen.experiments.optimal_control.images import (
    AT_NOISE,
    TASKS,
    Misfit,
    main,
    problem,
    untrained,
)
from ctrlgen.experiments.optimal_control.images_settings import (
    COUNTS,
    METHODS,
    RANDOM,
    SWEPT,
    VARIANTS,
)
from ctrlgen.experiments.optimal_control.images_verdicts import FEASIBLE, better, feasible, verdicts
from ctrlgen.methods import OptimalControl
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.sampling.grids import Respaced

SHAPE = [1, 28, 28]


@pytest.fixture
def prior() -> Prior:
    """The name and the card of the MNIST prior, over a network of a few weights."""
    card = ctrlgen.load("mnist").card
    network = build("unet", shape=SHAPE, classes=3, mean=-0.7, std=0.6, widths=[4])
    network.eval().requires_grad_(False)
    return Prior(Flow(network, CondOT()), Gaussian(SHAPE), card=card)


# ------------------------------------------------------------------ the problem


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_is_at_the_noise(task: str) -> None:
    """Every form of the cost is about zero, or at its target, where the residual is the noise."""
    truth = held_out("mnist", 8).images
    levels = [problem(TASKS[task], truth, form)(truth) for form in ("norm", "likelihood", "psnr")]
    entries = problem(TASKS[task], truth, "psnr")
    count = entries.operator.measured(entries.y)
    assert (levels[0].abs() < 0.05 * 3).all()  # three deviations of a norm about its mean
    assert (levels[1].abs() < 3 * (count / 2).sqrt()).all()
    assert (levels[2] + AT_NOISE).abs().mean() < 1.0


def test_misfits_are_a_norm_and_a_likelihood() -> None:
    truth = held_out("mnist", 2).images
    cost = problem(TASKS["sr2"], truth, "psnr")
    x = torch.zeros_like(truth)
    square = cost.residual(x).square().flatten(1).sum(1)
    norm, likelihood = (
        Misfit(cost.operator, cost.y, 0.05, form)(x) for form in ("norm", "likelihood")
    )
    assert torch.allclose(norm, square.sqrt() - 0.05 * 14)
    assert torch.allclose(likelihood, 0.5 * (square / 0.05**2 - 196))
    with pytest.raises(ValueError, match=r"noise: .*> 0"):
        Misfit(cost.operator, cost.y, 0.0, "norm")


def test_an_untrained_twin_is_random_seeded_and_apart(prior: Prior) -> None:
    x, t = torch.randn(2, *SHAPE), 0.5
    trained = prior.velocity(x, t)
    first, again, other = (untrained(prior, seed).velocity(x, t) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(prior.velocity(x, t), trained)
    assert (first - trained).std() > 0.1 and (first - other).std() > 0.1  # not zero at the end
    before = prior.flow.evaluations.forward
    untrained(prior).velocity(x, t)
    assert prior.flow.evaluations.forward == before


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluations_do_not_grow_with_the_steps(name: str) -> None:
    """What is swept over T has the same number of evaluations at each, and T steps or states."""
    for steps in COUNTS:
        method = VARIANTS[name].build(steps, 4.0, 0.0)
        levels = method.grid(CondOT())  # type: ignore[attr-defined]
        released = isinstance(method.grid, Respaced)  # type: ignore[attr-defined]
        assert released == (name in ("released", "adam"))
        assert len(levels) - 1 + released == steps
        if name in SWEPT and isinstance(method, OptimalControl) and method.update == "adam":
            assert 200 <= steps * method.iterations <= 500


# ------------------------------------------------------------------ verdicts


def row(psnr: list[float], ssim: list[float], measured: list[float] | None = None) -> dict:
    return {"psnr": psnr, "ssim": ssim, "measurement_psnr": measured or [40.0] * len(psnr)}


def test_better_is_both_and_by_the_median_image() -> None:
    theirs = row([20.0, 20.0, 20.0], [0.5, 0.5, 0.5])
    assert better(row([19.0, 21.0, 22.0], [0.6, 0.6, 0.1]), theirs) == {
        "margins": {"psnr": 1.0, "ssim": pytest.approx(0.1)},
        "holds": True,
    }
    assert not better(row([21.0, 21.0, 21.0], [0.4, 0.4, 0.6]), theirs)["holds"]
    assert not better(theirs, theirs)["holds"]
    lost = better(row([math.nan, math.nan, 40.0], [0.9, 0.9, 0.9]), theirs)
    assert lost["margins"]["psnr"] == -math.inf and not lost["holds"]
    others = row([math.nan, math.nan, 20.0], [math.nan, 0.5, 0.5])
    assert better(theirs, others)["margins"]["psnr"] == math.inf


def test_feasible_is_nine_of_ten_images_at_the_noise() -> None:
    met, missed = FEASIBLE + 0.01, FEASIBLE - 0.01
    assert pytest.approx(20 * math.log10(2 / 0.05) - 1) == FEASIBLE
    assert feasible(row([0.0], [0.0], [met] * 9 + [missed])) == {"share": 0.9, "holds": True}
    assert not feasible(row([0.0], [0.0], [met] * 8 + [missed] * 2))["holds"]
    assert feasible(row([0.0], [0.0], [math.nan, met]))["share"] == 0.5


def by_hand() -> dict[str, dict[str, Any]]:
    """Rows in which all are alike, but Adam from the start is better and DPS fails."""
    rows = {f"{task}-plain": row([15.0] * 3, [0.5] * 3) for task in METHODS}
    for task, names in METHODS.items():
        rows |= {f"{task}-{name}": row([20.0] * 3, [0.8] * 3) for name in names}
        rows[f"{task}-adam-start"] = row([23.0] * 3, [0.9] * 3)
    for name in SWEPT:
        for steps in COUNTS:
            rows.setdefault(f"steps-{name}-{steps}", row([20.0] * 3, [0.8] * 3))
    for task, names in RANDOM.items():
        for name in names:
            measured = [10.0 if name.startswith("dps") else 35.0] * 3
            rows[f"random-{task}-{name}"] = row([10.0] * 3, [0.1] * 3, measured)
    return rows


def test_verdicts_follow_the_rows() -> None:
    rows = by_hand()
    told = verdicts(rows)
    assert told["better_than"]["adam-start"]["dps"]["every"]
    assert told["better_than"]["adam-start"]["start"]["sr2"]["margins"]["psnr"] == 3.0
    assert not told["better_than"]["adam"]["dps"]["every"]  # no better than its equal
    assert "start" not in told["better_than"]["adam"]
    assert "flowgrad-long" not in told["better_than"]  # a row of the random network alone
    assert set(told["better_than"]["rank-16-start"]["dps"]) == {"sr4", "every"}
    assert told["broken"] == {name: [] for name in SWEPT}
    assert told["feasible_where_dps_is_not"] == {"adam": True, "flowgrad-long": True}

    rows["inpaint-adam-start"] = row([19.0] * 3, [0.9] * 3)
    rows["steps-dps-5"] = row([14.0, 14.0, 30.0], [0.8] * 3)
    rows["sr4-dps-published"] = row([math.nan] * 3, [0.8] * 3)
    rows["random-sr4-dps"] = row([10.0] * 3, [0.1] * 3, [35.0] * 3)
    rows["random-inpaint-flowgrad-long"] = row([10.0] * 3, [0.1] * 3, [20.0] * 3)
    told = verdicts(rows)
    assert told["better_than"]["adam-start"]["dps"]["sr4"]["holds"]
    assert not told["better_than"]["adam-start"]["dps"]["every"]
    assert told["broken"]["dps"] == [5] and told["broken"]["dps-published"] == [20]
    assert told["feasible"]["sr4"]["dps"] == {"share": 1.0, "holds": True}
    assert told["feasible_where_dps_is_not"] == {"adam": False, "flowgrad-long": False}


# ------------------------------------------------------------------ all of it


def test_every_row_is_measured_once_and_drawn(
    tmp_path: Path, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctrlgen, "load", lambda name, device: prior)
    few = ("dps", "dps-published", "released", "start", "adam-start", "rank-1-start")
    methods = {"sr4": few, "inpaint": ("dps", "start", "flowgrad-start")}
    swept = ("dps", "dps-published", "adam-start")
    random = {"sr4": ("dps", "dps-published", "flowgrad")}
    for name, value in (
        ("METHODS", methods), ("SWEPT", swept), ("RANDOM", random), ("STEPS", 2),
        ("COUNTS", (1, 2)),
    ):  # fmt: skip
        for module in (images, images_settings, images_verdicts):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    from ctrlgen.experiments.optimal_control import images_figures

    for name, value in (("METHODS", methods), ("SWEPT", swept), ("RANDOM", random)):
        monkeypatch.setattr(images_figures, name, value)
    for name, variant in VARIANTS.items():
        shorter = lambda s, k, t, build=variant.build: brief(build(s, k, t))  # noqa: E731
        monkeypatch.setitem(VARIANTS, name, type(variant)(variant.title, variant.form, shorter))
    options: dict[str, Any] = {"images": 2, "out": tmp_path / "out", "cache": tmp_path / "cache"}
    main(**options)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    plain = {"sr4-plain", "inpaint-plain"}
    rows = {name: one for name, one in results["rows"].items() if name not in plain}
    assert len(rows) == 6 + 3 + 3 + 3 and plain < set(results["rows"])
    for name, one in rows.items():
        assert len(one["psnr"]) == len(one["ssim"]) == len(one["measurement_psnr"]) == 2
        assert one["evaluations"] > 0 and one["diverged"] == 0 and one["jvps"] == 0
        assert one["steps"] == (1 if name.startswith("steps") else 2)
        assert sum(one["status"].values()) == 2
        assert one["frechet"]["embedder"] == "FD-MNISTClassifier"
    assert rows["sr4-dps"]["evaluations"] == rows["sr4-dps"]["vjps"] == 2
    assert rows["sr4-start"]["evaluations"] == 10 + 20 + 2
    assert set(results["verdicts"]) >= {"better_than", "broken", "feasible"}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "### Verdicts" in text and "| true |" in text + "| true |"
    for name in ("sr4.png", "inpaint.png", "steps.png", "random.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*.json")}
    assert len(stamps) == 17
    main(**options)
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*.json")}


def brief(method: Any) -> Any:
    """A method of one iteration."""
    from dataclasses import replace

    if isinstance(method, OptimalControl):
        return replace(method, iterations=1, halvings=2)
    if hasattr(method, "optimizer"):
        return replace(method, optimizer=replace(method.optimizer, max_evaluations=2))
    return method
