r"""What the rows of `optimal_control.images` say of the paper's statements, by numbers alone.

    better      the median over images of ours − theirs is above zero in PSNR and in SSIM
    broken      a median PSNR below that of H†y
    feasible    nine of ten images meet the measurement to within 1 dB of PSNR of its noise

An image without a number has lost, and does not meet its measurement. These are statements about
the images at hand, not tests of significance.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from ctrlgen.experiments.optimal_control.images_settings import (
    COUNTS,
    FAMILY,
    METHODS,
    NOISE,
    RANDOM,
    RIVALS,
    STEPS,
    SWEPT,
)

__all__ = ["better", "feasible", "swept", "verdicts"]

FEASIBLE = 20 * math.log10(2 / NOISE) - 1  # dB from which on a measurement is met
ENOUGH = 0.9  # share of the images that must meet it


def _margin(ours: float, theirs: float) -> float:
    """ours − theirs; who has no number has lost, and both of none is a draw."""
    lost, won = math.isnan(ours), math.isnan(theirs)
    if lost or won:
        return 0.0 if lost and won else -math.inf if lost else math.inf
    return ours - theirs


def better(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Whether a row is better than another: in PSNR and in SSIM, by the median image."""
    margins = {
        key: median(_margin(a, b) for a, b in zip(ours[key], theirs[key], strict=True))
        for key in ("psnr", "ssim")
    }
    return {"margins": margins, "holds": all(margin > 0 for margin in margins.values())}


def feasible(row: dict[str, Any]) -> dict[str, Any]:
    """Whether a row meets the measurement: at least `ENOUGH` of its images at `FEASIBLE` dB."""
    met = [value >= FEASIBLE for value in row["measurement_psnr"]]
    share = sum(met) / len(met)
    return {"share": share, "holds": share >= ENOUGH}


def verdicts(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the rows say of the paper's statements; decided here and nowhere else.

    Returns:
        "better_than": by row of optimal control and rival ("start" for those that begin there), by
        task `better`, and whether it holds on "every" task of the row; "broken": by row over T,
        the T at which the median PSNR is below that of H†y; "feasible": by task and row, and
        "feasible_where_dps_is_not": by row of optimal control, whether on every task it is and
        neither DPS is.
    """
    compared: dict[str, Any] = {}
    for name in FAMILY:
        tasks = [task for task in METHODS if f"{task}-{name}" in rows]
        for rival in (*RIVALS, "start") if name.endswith("-start") else RIVALS:
            told = {
                task: better(rows[f"{task}-{name}"], rows[f"{task}-{rival}"])
                for task in tasks
                if f"{task}-{rival}" in rows
            }
            if told:
                every = all(one["holds"] for one in told.values())
                compared.setdefault(name, {})[rival] = {**told, "every": every}
    plain = median(rows["sr4-plain"]["psnr"])
    broken = {
        name: [
            steps
            for steps in COUNTS
            if (row := rows.get(swept(name, steps))) and not median(row["psnr"]) >= plain
        ]
        for name in SWEPT
    }
    met = {
        task: {name: feasible(rows[f"random-{task}-{name}"]) for name in names}
        for task, names in RANDOM.items()
    }
    ours = {name for names in RANDOM.values() for name in names if name in FAMILY}
    return {
        "better_than": compared,
        "broken": broken,
        "feasible": met,
        "feasible_where_dps_is_not": {
            name: all(
                told[name]["holds"] and not any(told[rival]["holds"] for rival in RIVALS)
                for told in met.values()
            )
            for name in sorted(ours)
        },
    }


def swept(name: str, steps: int) -> str:
    """The name of the row of a variant at T steps; at `STEPS` it is the table's."""
    return f"sr4-{name}" if steps == STEPS else f"steps-{name}-{steps}"
