"""A front of molecules as a picture: its steps, with the draws of the prior behind in grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ctrlgen.costs.pareto import nondominated
from ctrlgen.domains.molecules.figures import EVALUATOR, FAINT, GUIDE, INK
from ctrlgen.domains.molecules.front_tables import points
from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.domains.molecules.properties import PROPERTIES

__all__ = ["draw_front", "front_panels"]


def front_panels(
    told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[Callable[[Any], None]]:
    """What draws each pair of the properties of a front into axes.

    Args:
        told: of `front_tables.settled`.
        rows: of all molecules.
    """
    front = Front(tuple(told["properties"]), tuple(told["large"]))
    series = {who: points(front, rows, who) for who in ("guide", "evaluator")}
    series["draws"] = torch.tensor(told["points"], dtype=torch.float64).reshape(
        -1, len(front.names)
    )
    return [
        partial(
            draw_front,
            front=Front(tuple(front.names[i] for i in pair), tuple(front.large[i] for i in pair)),
            series={who: values[:, list(pair)] for who, values in series.items()},
        )
        for pair in combinations(range(len(front.names)), 2)
    ]


def draw_front(axes: Any, front: Front, series: Mapping[str, Tensor]) -> None:
    """Two properties: the draws in grey, the molecules by either network, and both fronts.

    Args:
        axes: of matplotlib.
        front: of two properties.
        series: values (B, 2) by "draws" (the evaluator's of the draws), "guide" and "evaluator";
            rows with NaN are not drawn.
    """
    styles = {
        "draws": (FAINT, 6, 0.35, "draws, by the evaluator"),
        "guide": (GUIDE, 14, 0.55, "molecules, by the guide that steered"),
        "evaluator": (EVALUATOR, 24, 0.95, "molecules, by the evaluator"),
    }
    for who, (colour, size, alpha, label) in styles.items():
        own = series[who][series[who].isfinite().all(1)]
        if not len(own):
            continue
        axes.scatter(*own.T.tolist(), s=size, color=colour, alpha=alpha, lw=0, label=label)
        if who != "guide":
            best = own[nondominated(front.costs(own))]
            x, y = best[best[:, 0].argsort()].T.tolist()
            rising = "post" if not front.large[0] else "pre"  # a corner lies where both are worse
            axes.step(x, y, where=rising, color=colour, lw=1.2, alpha=0.9)
    for name, large, label in zip(
        front.names, front.large, (axes.set_xlabel, axes.set_ylabel), strict=True
    ):
        known = PROPERTIES[name]
        label(f"{known.symbol} ({known.unit}), {'large' if large else 'small'} wanted", color=INK)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
