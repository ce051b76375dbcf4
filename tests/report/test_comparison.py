"""Paired comparison: values by hand, coverage, and what counts as a pair."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ctrlgen.report.comparison import compare, paired
from ctrlgen.report.intervals import mean_of
from ctrlgen.report.sections import Metric, Sample, Section

PSNR = Metric("psnr", "dB", "higher")


def test_means_wins_and_ties_by_hand() -> None:
    made = paired([1.0, 2.0, 3.0, 5.0], [2.0, 2.0, 5.0, 4.0], PSNR)
    assert (made.first, made.second, made.difference) == (2.75, 3.25, 0.5)
    assert (made.better, made.equal, made.valued, made.pairs) == (2, 1, 4, 4)
    assert made.low is not None and made.high is not None and made.low < 0.5 < made.high
    lower = paired([1.0, 2.0, 3.0, 5.0], [2.0, 2.0, 5.0, 4.0], replace(PSNR, better="lower"))
    assert lower.better == 1
    assert paired([1.0], [2.0], replace(PSNR, better=None)).better is None


def test_pairs_without_a_value_are_counted_and_not_averaged() -> None:
    made = paired([1.0, math.nan, 3.0, None], [2.0, 5.0, math.inf, 1.0], PSNR)
    assert (made.pairs, made.valued, made.difference) == (4, 1, 1.0)
    assert made.low is None and made.high is None  # one pair says nothing of its spread
    empty = paired([math.nan], [1.0], PSNR)
    assert (empty.valued, empty.difference) == (0, None)
    with pytest.raises(ValueError, match="second: expected 2 values"):
        paired([1.0, 2.0], [1.0], PSNR)


def test_the_interval_is_that_of_the_paired_mean() -> None:
    """Of Gaussian differences it is the one of textbooks, mean +- 1.96 s / sqrt(n), within 5 %."""
    draw = np.random.default_rng(3).normal(0.3, 1.0, 400)
    base = np.random.default_rng(4).normal(0, 50, 400)  # a spread that pairs take away
    made = paired(base.tolist(), (base + draw).tolist(), PSNR)
    half = 1.96 * draw.std(ddof=1) / math.sqrt(400)
    assert made.difference == pytest.approx(draw.mean(), abs=1e-9)
    assert made.low == pytest.approx(draw.mean() - half, abs=0.05 * half)
    assert made.high == pytest.approx(draw.mean() + half, abs=0.05 * half)
    assert paired([1.0, 2.0], [2.0, 3.0], PSNR).low == 1.0  # no spread, no warning


def test_a_mean_counts_what_is_missing() -> None:
    assert mean_of([math.nan, None]).text(2) == "-"
    some = mean_of([1.0, math.nan, 3.0, None])
    assert some.mean == 2 and (some.missing, some.total) == (2, 4)
    assert some.text(1) == "2.0 [1.0, 3.0] (2 of 4 without)"
    assert mean_of([2.0]).text(1) == mean_of([2.0, 2.0]).text(1) == "2.0"


def _section(problem: str | None, seeds: list[int], shift: float) -> Section:
    samples = [
        Sample(k, seed, "finished", 1.0, {"psnr": seed + shift, "valid": seed > 2})
        for k, seed in enumerate(seeds)
    ]
    return Section("s", samples, problem, [PSNR, Metric("valid", better="higher")])


def test_runs_of_one_problem_are_paired_by_seed() -> None:
    runs = [
        _section("a", [1, 2, 3], 0.0),
        _section("b", [1, 2, 3], 9.0),
        _section("a", [4, 3, 2], 0.5),
        _section(None, [1, 2], 1.0),
        _section(None, [1, 2], 2.0),
    ]
    rows = compare(runs)
    assert {(row["a"], row["b"]) for row in rows} == {(0, 2)}
    by_name = {row["metric"]: row for row in rows}
    assert set(by_name) == {"psnr", "valid", "cost"}
    assert by_name["psnr"]["pairs"] == 2 and by_name["psnr"]["difference"] == 0.5
    assert by_name["valid"]["first"] == 0.5  # verdicts count as 0 and 1


def test_a_seed_that_comes_twice_is_paired_by_its_place() -> None:
    first, second = _section("a", [7, 7, 8], 0.0), _section("a", [7, 7, 8], 1.0)
    second.samples[1].metrics = {"psnr": 100.0}
    row = next(row for row in compare([first, second]) if row["metric"] == "psnr")
    assert row["pairs"] == 3 and row["second"] == pytest.approx((8 + 100 + 9) / 3)
