"""What a recommendation is worth, from made-up numbers."""

from __future__ import annotations

import pytest

from ctrlgen.comparison import Comparison
from ctrlgen.experiments.methods.choice import judged, table

SCORES = {"a": [30.0, 20.0, 25.0], "b": [28.0, 23.0, 24.6], "c": [10.0, 10.0, 10.0]}


def row(method: str, problems: int, **more: object) -> dict[str, object]:
    return {
        "method": method, "setting": "x2", "reason": None, "problems": problems, "evaluations": 50,
        "backward_passes": 10, "behind": {"method": method}, **more,
    }  # fmt: skip


def test_regret_is_of_the_mean_and_the_cost_is_of_all() -> None:
    rows = [
        row("b", 4, behind=None), row("a", 4), row("c", 2),
        {"method": "d", "reason": "left behind on 2 problems held aside", "setting": "usual"},
    ]  # fmt: skip
    verdict = {
        "best": "b", "share": 0.6, "sentence": "use b",
        "against": [{"method": "a", "problems": 4}, {"method": "c", "problems": 2}],
    }  # fmt: skip
    search = {"evaluations": 700, "backward_passes": 300}
    content = {
        "rows": rows, "verdicts": [verdict], "search": search, "seconds": 3.0,
        "problems": {"reported": [0, 1, 3, 4]},
    }  # fmt: skip
    made = judged(Comparison(content), SCORES, [29.0, 24.0])
    assert made["best_of_matrix"] == "b" and made["regret"] == 0
    assert made["regret_median"] == pytest.approx(0.4)
    assert made["regret_chosen"] == pytest.approx(25.5 - 26.5)
    assert made["left"] == 2 and made["problems"] == {"b": 4, "a": 4, "c": 2, "d": 0}
    assert made["cost"] == {"evaluations": 1200, "backward_passes": 400, "seconds": 3.0}
    verdicts = {"tasks": 1, "within": 1, "within_median": 0, "within_chosen": 1}
    about = {"images": 6, "prior": "mnist", "budget": 50, "methods": "abcd", "matrix_images": 3}
    text = table({**about, "checked": 2, "tasks": {"sr2": made}, "verdicts": verdicts})
    assert "| sr2 | b, x2 | 60 % | 2 | b 25.20 | 0.00 | 0.40 | -1.00 | 1200 | 400 | 3 |" in text
