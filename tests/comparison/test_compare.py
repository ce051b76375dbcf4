"""Methods of known rank are ranked so, on problems that none of them was tuned on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ctrlgen as cg
from ctrlgen.comparison import Study, compare
from ctrlgen.comparison.candidates import parse_budget
from ctrlgen.comparison.posed import split
from ctrlgen.methods import DPS, Method
from ctrlgen.rows.errors import ResultError, UnknownName
from ctrlgen.runs.locks import lock_folder
from ctrlgen.runs.manifest import OtherRun
from ctrlgen.runs.store import Store
from ctrlgen.sampling.grids import Uniform
from tests.comparison.contestants import Shrunk, fixed, prior, problem


def rows_of(made: cg.Comparison) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in made.rows}


def test_the_best_method_of_a_gaussian_is_recommended() -> None:
    """Nothing has a smaller mean squared error than the mean of the posterior."""
    methods = {"mean": fixed(), "half": fixed(factor=0.25), "draw": fixed(sample=True)}
    made = compare(prior(), problem(24), {**methods, "ddrm": None}, [4], factors=())
    (verdict,) = made.content["verdicts"]
    assert verdict["best"] == "mean" and verdict["share"] > 0.9
    assert verdict["sentence"].startswith("At 4 evaluations use mean: ")
    assert all(other["difference"] > 0 for other in verdict["against"])
    mean, draw = rows_of(made)["mean"], rows_of(made)["draw"]
    assert mean["calibration"] < 0.2  # every sample is the mean
    assert draw["calibration"] == pytest.approx(1, abs=0.3)  # 16 draws of six numbers
    assert (mean["evaluations"], mean["backward_passes"]) == (2, 0)
    assert made.best() == Shrunk()


def test_the_search_sees_other_problems_than_the_report(tmp_path: Path) -> None:
    """Its settings are run on the third held aside, in folders of their own."""
    aside, reported = split(9)
    assert not set(aside) & set(reported) and sorted(aside + reported) == list(range(9))
    assert len(aside) == 3
    made = compare(prior(), problem(9), {"shrunk": fixed(factor=0.5)}, [4], folder=tmp_path)
    row = rows_of(made)["shrunk"]
    assert row["setting"] == "x2" and set(row["tuned"]) == {"usual", "x0.5", "x2"}
    assert made.best(4) == Shrunk(factor=1.0)
    for part in (tmp_path / "tune").iterdir():
        assert set(Store.open(part).seeds) == set(aside)
    assert set(Store.open(tmp_path / row["folder"]).seeds) == set(reported)
    assert made.content["search"] == {
        "parts": 3, "evaluations": 18, "backward_passes": 0,
        "seconds": made.content["search"]["seconds"],
    }  # fmt: skip


def test_a_search_takes_nothing_from_the_reported_truth() -> None:
    """Other truths of the reported problems change no setting."""
    one = problem(9)
    assert one.truth is not None
    wrong = one.truth.clone()
    wrong[split(9)[1]] = 0.0
    other = cg.InverseProblem(one.operator, one.y, one.noise, wrong)
    methods = {"shrunk": fixed(factor=0.5)}
    settings = [
        rows_of(compare(prior(), posed, methods, [4]))["shrunk"]["tuned"] for posed in (one, other)
    ]
    assert settings[0] == settings[1]


def test_a_failing_method_does_not_stop_the_others() -> None:
    methods = {
        "fails": fixed(fails=tuple(range(6))), "one fails": fixed(fails=(0,)),
        "dear": fixed(spends=9), "d-flow": None, "mean": fixed(),
    }  # fmt: skip
    made = compare(prior(), problem(), methods, [4], factors=())
    rows = rows_of(made)
    assert rows["fails"]["reason"] == "ArithmeticError: no root of this one"
    assert rows["d-flow"]["reason"] == "evaluations: expected at least 36 for d-flow, got 4"
    assert "spent 9 evaluations" in rows["dear"]["reason"]
    assert rows["one fails"]["reason"] is None and rows["one fails"]["failed"] == 1
    assert rows["one fails"]["values"][0] is None
    # one that fails gets the worst of its problem, here that of the other method
    assert rows["one fails"]["mean"] == pytest.approx(rows["mean"]["mean"])
    assert "At 4 evaluations use" in made.sentences[0] and "no root" in made.table()


def test_without_a_truth_the_posterior_judges() -> None:
    methods = {"mean": fixed(), "draw": fixed(sample=True), "zero": fixed(factor=1e-6)}
    made = compare(prior(), problem(9, truth=False), methods, [4], factors=())
    assert made.content["criterion"]["name"] == "posterior"
    rows = rows_of(made)
    assert made.content["verdicts"][0]["best"] == "mean"  # the mode of a Gaussian
    assert made.content["problems"]["draws"] == 2
    assert rows["mean"]["diversity"] == 0 and rows["draw"]["diversity"] > 0.1
    assert rows["draw"]["metrics"]["residual"] == pytest.approx(1, abs=0.5)
    # the density itself, up to the noise of one Hutchinson probe, exact for a diagonal Jacobian
    posed, law = problem(9, truth=False), prior().flow.network.mixture  # type: ignore[union-attr]
    x = Shrunk()(prior(), posed.cost(Shrunk(), 9), seeds=range(9)).samples
    misfit = (x - posed.y).square().flatten(1).sum(1) / (2 * posed.sigma**2)
    expected = ((law.log_prob(x) - misfit) / 6).mean()
    assert rows["mean"]["mean"] == pytest.approx(float(expected), abs=0.02)


SCRIPT = """
import sys
from ctrlgen.comparison import compare
from tests.comparison.contestants import fixed, prior, problem
methods = {"mean": fixed(), "half": fixed(factor=0.25), "dies": fixed(dies=sys.argv[2])}
compare(prior(), problem(), methods, [4, 8], folder=sys.argv[1])
"""


def test_a_killed_comparison_goes_on_bit_for_bit(tmp_path: Path) -> None:
    death = tmp_path / "death"
    script, root = [sys.executable, "-c", SCRIPT], Path(__file__).parents[2]
    killed = subprocess.run([*script, tmp_path / "a", death], cwd=root)
    assert killed.returncode == -9 and death.exists()
    assert not (tmp_path / "a" / "result.json").exists()
    first = Store.open(tmp_path / "a" / "tune" / "mean-4-usual")
    written = first.folder.joinpath("shards", "000000.jsonl").stat().st_mtime_ns
    methods = {"mean": fixed(), "half": fixed(factor=0.25), "dies": fixed(dies=str(death))}
    again = compare(prior(), problem(), methods, [4, 8], folder=tmp_path / "a")
    whole = compare(prior(), problem(), methods, [4, 8], folder=tmp_path / "b")
    assert first.folder.joinpath("shards", "000000.jsonl").stat().st_mtime_ns == written

    def numbers(made: cg.Comparison) -> Any:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in made.rows]

    assert numbers(again) == numbers(whole) and again.table() == whole.table()
    assert again.sentences == whole.sentences
    with pytest.raises(OtherRun, match="draws: 1 there, 2 now"):
        compare(prior(), problem(), methods, [4, 8], folder=tmp_path / "a", draws=2)
    with lock_folder(tmp_path / "b"), pytest.raises(ValueError, match="since"):
        compare(prior(), problem(), methods, [4, 8], folder=tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ["tgf"]}, ValueError, "'tgf' is not known; did you mean tfg?"),
        ({"methods": ["zzzzz"]}, UnknownName, "known are: ancestral-pigdm"),
        ({"methods": ["dps", "DPS"]}, ValueError, "methods: dps is named twice"),
        ({"methods": []}, ValueError, "methods: expected at least one name"),
        ({"methods": {"mine": 3}}, TypeError, "methods: mine: expected a method, got 3"),
        ({"budgets": [0]}, ValueError, "budgets: expected whole numbers above 0, got 0"),
        ({"budgets": [4, 4]}, ValueError, "budgets: expected each number once"),
        ({"metric": "ssim"}, ValueError, "metric: expected one of psnr, posterior, residual"),
        ({"factors": [0]}, ValueError, "factors: expected numbers above 0, got 0"),
        ({"draws": 0}, ValueError, "draws: expected"),
        ({"problem": "blur"}, TypeError, "problem: expected an InverseProblem, got 'blur'"),
        (
            {"problem": problem(3, truth=False), "metric": "psnr"},
            ValueError,
            "metric: psnr needs the true signals, and the problem has none",
        ),
    ],
)
def test_bad_input_is_an_error_before_any_compute(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"problem": problem(3), "methods": ["dps"], "budgets": [4], **change}
    posed, methods, budgets = given.pop("problem"), given.pop("methods"), given.pop("budgets")
    with pytest.raises(error, match=message.replace("?", r"\?")):
        Study(prior(), posed, methods, budgets, **given)


def test_budgets_and_their_price() -> None:
    assert parse_budget("evaluations=200,50") == [50, 200]
    for text in ("50", "steps=50", "evaluations=", "evaluations=1.5", "evaluations=5,5"):
        with pytest.raises(ValueError, match="budget: expected"):
            parse_budget(text)
    study = Study(prior(), problem(9), ["dps", "d-flow"], [4, 40])
    # dps three settings on 3 problems and one on 6, twice; d-flow two or three at 40 alone
    tried = len(study.candidates[-1].settings)
    assert study.price()["search"] == 9 * 4 + 9 * 40 + tried * 3 * 40
    assert study.price()["reported"] == 6 * 4 + 2 * 6 * 40
    least, most = study.seconds()
    assert 0 < least < most


def test_a_metric_of_ones_own_and_a_method_of_fixed_settings() -> None:
    def worst(signals: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return (signals - truth).abs().flatten(1).amax(1)

    worst.better = "lower"  # type: ignore[attr-defined]
    methods: dict[str, Method] = {"dps": DPS(grid=Uniform(4), rho=1.0), "mean": Shrunk()}
    made = compare(prior(), problem(6), methods, [4], metric=worst, factors=())
    assert made.content["verdicts"][0]["best"] == "mean"
    assert " below dps" in made.sentences[0]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "another"}))
    with pytest.raises(ResultError, match="holds something else"):
        compare(prior(), problem(3), {"mean": fixed()}, [4], folder=tmp_path)
