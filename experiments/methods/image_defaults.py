r"""The default methods of `ctrlgen image`, from the results of the matrix of methods.

    python -m ctrlgen.experiments.methods.image_defaults

Of every prior and kind of task the method and budget of the highest mean PSNR over the linear tasks
of that kind, each by the median of its images; a pair that lacks one of them does not take part.
Nothing is computed but that: `methods.matrix` makes the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median
from typing import Any

import ctrlgen.domains.images as images
from ctrlgen.commands import console
from ctrlgen.experiments.methods.matrix import TASKS

__all__ = ["RESULTS", "derive", "main"]

RESULTS = Path(__file__).parents[1] / "results"

_NONLINEAR = ("nonlinear-blur",)


def derive(folder: Path = RESULTS) -> dict[str, Any]:
    """The table that `defaults.json` holds, from all `method_matrix_*/results.json` of a folder."""
    rows: dict[str, dict[str, dict[tuple[str, int], dict[str, float]]]] = {}
    hashes: dict[str, str] = {}
    for file in sorted(folder.glob("method_matrix_*/results.json")):
        content = json.loads(file.read_text())
        prior = content["prior"]
        hashes[prior] = content["sha256"]
        for task in content["tasks"]:
            if task in _NONLINEAR:
                continue
            for method in content["methods"]:
                for budget in content["budgets"]:
                    row = content["rows"].get(f"{task}-{method}-{budget}")
                    if row is not None:
                        pairs = rows.setdefault(prior, {}).setdefault(TASKS[task].kind, {})
                        pairs.setdefault((method, budget), {})[task] = median(row["psnr"])
    return {
        "by": "python -m ctrlgen.experiments.methods.image_defaults",
        "priors": {
            prior: {
                "sha256": hashes[prior],
                "tasks": {kind: _best(pairs) for kind, pairs in sorted(kinds.items())},
            }
            for prior, kinds in sorted(rows.items())
        },
    }


def _best(pairs: dict[tuple[str, int], dict[str, float]]) -> dict[str, Any]:
    """The best pair among those that did every task; of equal ones the cheaper."""
    tasks = {task for scores in pairs.values() for task in scores}
    whole = {pair: mean(s.values()) for pair, s in pairs.items() if set(s) == tasks}
    (method, budget), score = max(whole.items(), key=lambda item: (item[1], -item[0][1]))
    return {"method": method, "evaluations": budget, "psnr": round(score, 2)}


def main() -> None:
    """Write `defaults.json` beside the package of images."""
    file = Path(images.__file__).with_name("defaults.json")
    file.write_text(console.dumps(derive()) + "\n")
    console.say(file)


if __name__ == "__main__":
    main()
