"""Who is hopeless gets few problems and who may be the best all of them; the best one stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import ctrlgen as cg
from ctrlgen.comparison import compare
from ctrlgen.comparison.racing import behind, looks, race
from ctrlgen.operators.base import Operator
from ctrlgen.priors.prior import Prior
from ctrlgen.report.contest import contest_sections
from ctrlgen.runs.store import Store
from ctrlgen.solvers import RK4
from tests.comparison.contestants import fixed, prior, problem


@pytest.mark.parametrize(
    ("problems", "expected"),
    [(0, []), (1, [1]), (2, [2]), (3, [2, 3]), (8, [2, 4, 8]), (16, [4, 8, 16]), (30, [8, 16, 30])],
)
def test_looks(problems: int, expected: list[int]) -> None:
    assert looks(problems) == expected


def test_the_level_of_the_test_holds() -> None:
    """Of six that are equal on problems of very different difficulty, the first is rarely out."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(300, 6, 4)) + 20 * rng.normal(size=(300, 1, 4))
    assert sum(behind(table, 0.1)[0] for table in tables) <= 30


def test_hopeless_ones_are_out_and_neighbours_are_not() -> None:
    """On three problems on which all but the two best agree, nobody knows which of these it is."""
    table = [[30.0, 31, 32], [29.9, 30.9, 31.9], *[[20.0 - i] * 3 for i in range(8)]]
    out = behind(table, 0.05)
    assert not any(out[:2]) and all(out[5:])
    assert behind([[1.0, 2.0], [0.0, 0.0]], 0.05) == [False, False]  # two of two problems
    assert behind([[1.0] * 12, [0.0] * 12], 0.05) == [False, True]


def test_a_race_spends_its_problems_where_they_decide() -> None:
    rng = np.random.default_rng(1)
    hard, spent = 5 * rng.normal(size=16), dict[str, int]()
    levels = {"best": 30.0, "near": 29.9, **{f"far {i}": 10.0 - i for i in range(10)}}
    noise = {name: rng.normal(size=16) for name in levels}

    def runner(name: str):  # type: ignore[no-untyped-def]
        def run(number: int) -> list[float | None] | None:
            spent[name] = number
            values = list(levels[name] + hard + noise[name])
            if name == "far 0":
                return [None] * number  # counts as the worst
            return None if name == "far 1" else [float(v) for v in values[:number]]

        return run

    values = race({name: runner(name) for name in levels}, 16, 1)
    assert len(values["best"]) == len(values["near"]) == 16
    assert "far 1" not in values and spent["far 1"] == 4  # it cannot go on
    assert all(spent[name] <= 8 for name in levels if name.startswith("far"))
    assert sum(spent.values()) < 0.6 * 16 * len(levels)


METHODS = {
    "mean": fixed(), "near": fixed(factor=0.97),
    **{f"far-{i}": fixed(factor=-3.0 - i) for i in range(7)},
}  # fmt: skip


def test_methods_left_behind_are_rows_with_fewer_problems(tmp_path: Path) -> None:
    made = compare(prior(), problem(12), METHODS, [4], factors=(), folder=tmp_path)
    rows = {row["method"]: row for row in made.rows}
    assert made.content["problems"]["reported"] == list(range(12))  # nothing was to be tuned
    assert rows["mean"]["problems"] == rows["near"]["problems"] == 12
    (verdict,) = made.content["verdicts"]
    late = [row for row in made.rows if row["problems"] < 12]
    assert {"far-5", "far-6"} <= {row["method"] for row in late} and len(late) < 8
    assert f"{len(late)} left behind after " in verdict["sentence"]
    assert verdict["against"][0]["method"] == "near" and set(verdict["shares"]) >= {"mean", "near"}
    for row in late:
        store = Store.open(tmp_path / row["folder"])
        assert len(list(store.records())) == row["problems"] == len(row["values"])
        difference = np.mean(np.array(rows["mean"]["values"][: row["problems"]]) - row["values"])
        assert row["behind"]["difference"] == pytest.approx(difference)
        assert row["mean"] == pytest.approx(rows["mean"]["mean"] - difference)
    shown = contest_sections(tmp_path, {}, 1e6)
    assert all(section.complete and not section.missing for section in shown)
    # what is finished is neither computed nor decided again
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/shards/*")}
    again = compare(prior(), problem(12), METHODS, [4], factors=(), folder=tmp_path)
    assert again.content["verdicts"] == made.content["verdicts"]
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob("runs/*/shards/*")} == files


def test_a_method_left_behind_in_the_search_is_not_reported_on() -> None:
    made = compare(prior(), problem(24), METHODS, [4])
    rows = {row["method"]: row for row in made.rows}
    assert "problems held aside" in rows["far-6"]["reason"]
    assert rows["far-6"]["tried"]["usual"] < 8 == rows["mean"]["tried"]["usual"]
    assert rows["mean"]["reason"] is None and "far-6" in made.table()


class Rounded(Operator):
    """A measurement that says that it has no gradient."""

    differentiable = False

    def __call__(self, x: Tensor) -> Tensor:
        return (4 * x.detach()).round() / 4


def test_a_draw_of_best_of_is_as_dear_as_the_solver_of_the_prior() -> None:
    class Dear(Prior):
        def solver(self, steps: int, *_: Any, **__: Any) -> RK4:  # type: ignore[override]
            return RK4(steps)

    plain = prior()
    dear = Dear(plain.flow, plain.source)
    made = compare(dear, problem(3), ["best-of"], [11, 24], factors=())
    rows = {row["budget"]: row for row in made.rows}
    assert rows[11]["reason"] == "evaluations: expected at least 12 for best-of, got 11"
    assert rows[24]["evaluations"] == 24 and made.best(24).n == 2  # type: ignore[attr-defined]


def test_best_of_takes_part_where_there_is_no_gradient() -> None:
    truth = problem(3).truth
    assert truth is not None
    posed = cg.InverseProblem.of(Rounded(), truth, 0.1, range(3))
    study = cg.comparison.Study(prior(), posed, budgets=[12])
    assert (
        "best-of" in study.entrants
        and "best-of" not in cg.comparison.Study(prior(), problem(3), budgets=[12]).entrants
    )
    made = compare(prior(), posed, ["BestOf", "dps"], [5, 12], factors=())
    rows = {(row["method"], row["budget"]): row for row in made.rows}
    assert rows["best-of", 12]["evaluations"] == 12 and rows["best-of", 12]["reason"] is None
    assert rows["best-of", 5]["reason"] == "evaluations: expected at least 6 for best-of, got 5"
    assert "has no gradient" in rows["dps", 12]["reason"]
    assert made.best(12).n == 2  # type: ignore[attr-defined]
