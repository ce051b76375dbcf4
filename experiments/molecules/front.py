r"""What steering adds to a front: molecules of `--pareto` beside plain draws at equal evaluations.

    python -m ctrlgen.experiments.molecules.front --pareto gap,mu --directions 32

The run is that of `ctrlgen molecule generate --pareto --compare` (`molecules.front_search`): one
pool of draws, of which every direction gets one of its own and steers it along its direction. Rows,
every number by valid molecules alone:

    draws                  the pool: what every direction has seen before anything is steered
    best of K              as many draws of each seed as make the evaluations of steering, K of them
    steered                the molecules, one for each direction
    steered and draws      the same and the pool, which the search has paid for: same evaluations

Evaluations are passes of the network, forward and backward, for each direction. A row is worth its
hypervolume beyond the least that QM9 has of either property (0.5 % quantile), in products of mean
absolute deviations of QM9; by the guide, which steered and chose, and by the evaluator, which never
saw any of it. Intervals are the 2.5 % and 97.5 % quantiles of 2,000 bootstrap samples of seeds,
each with its direction and all its draws; differences are of the same samples. A bootstrap sample
of a front has fewer distinct points than the front and lies below it, for all rows alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from ctrlgen.costs.pareto import hypervolume, nondominated
from ctrlgen.domains.molecules.front_figures import draw_front
from ctrlgen.domains.molecules.front_tables import DRAWS, points
from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.domains.molecules.options import Generation
from ctrlgen.domains.molecules.result_tables import Table
from ctrlgen.domains.molecules.runs import Designing
from ctrlgen.experiments.shared.options import Cache, Out, Threads
from ctrlgen.experiments.shared.rows import RESULTS, publish
from ctrlgen.experiments.shared.tables import head
from ctrlgen.extras import require
from ctrlgen.report.figures import save_figure
from ctrlgen.runs.runner import begin, execute

__all__ = ["compared", "main", "worth"]

JUDGES = ("evaluator", "guide")
SAMPLES = 2000


def worth(front: Front, rows: Sequence[Tensor], limit: Tensor, picks: Tensor) -> tuple[float, Any]:
    """The hypervolume of rows of points, and those of bootstrap samples of the rows.

    Args:
        front: whose properties the points are.
        rows: property values (m, K) of each seed; NaN where there is none.
        limit: reference, as costs, shape (K,).
        picks: places of rows, shape (S, B).

    Returns:
        The number, and an array (S,).
    """
    costs = [front.costs(own.double()) for own in rows]
    best = [own[nondominated(own)] for own in costs]
    whole = hypervolume(torch.cat(best), limit)
    return whole, np.array(
        [hypervolume(torch.cat([best[i] for i in own]), limit) for own in picks.tolist()]
    )


def compared(
    front: Front, sets: dict[str, dict[str, list[Tensor]]], limit: Tensor, samples: int = SAMPLES
) -> dict[str, Any]:
    """Every row's hypervolume with its interval, and what the steered ones have over best of K.

    Args:
        front: of the properties.
        sets: by row and judge, the points of each seed.
        limit: reference, as costs, shape (K,).
        samples: of the bootstrap.
    """
    number = len(next(iter(next(iter(sets.values())).values())))
    picks = torch.randint(number, (samples, number), generator=torch.Generator().manual_seed(0))
    told: dict[str, Any] = {}
    for judge in JUDGES:
        whole, drawn = {}, {}
        for name, table in sets.items():
            whole[name], drawn[name] = worth(front, table[judge], limit, picks)
        for name in sets:
            own: dict[str, Any] = {"hypervolume": whole[name], "interval": _ends(drawn[name])}
            if name.startswith("steered"):
                base = "best of K"
                own["over best of K"] = whole[name] - whole[base]
                own["over best of K, interval"] = _ends(drawn[name] - drawn[base])
            told.setdefault(name, {})[judge] = own
    return told


def _ends(values: Any) -> list[float]:
    return [float(v) for v in np.quantile(values, (0.025, 0.975))]


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"Front of {results['front']}, {results['directions']} directions, prior `qm9-heavy`.\n",
        *head(
            "| row | evaluations | valid | on its front | hypervolume, evaluator | over best of K "
            "| hypervolume, guide | over best of K |"
        ),
    ]
    for name, row in results["rows"].items():
        cells = [f"{row['evaluations']:.0f}", str(row["valid"]), str(row["on the front"])]
        for judge in JUDGES:
            own = row[judge]
            cells.append(_cell(own["hypervolume"], own["interval"]))
            over = own.get("over best of K")
            cells.append("" if over is None else _cell(over, own["over best of K, interval"], "+"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: float, ends: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.2f} [{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"


def main(
    pareto: Annotated[str, typer.Option(help="as of `ctrlgen molecule generate`")] = "gap,mu",
    directions: Annotated[int, typer.Option(min=2, help="and molecules")] = 32,
    draws: Annotated[int, typer.Option(min=1, help="of each seed, in the pool")] = 32,
    evaluations: Annotated[int, typer.Option(help="of D-Flow's objective, per start")] = 12,
    restarts: Annotated[int, typer.Option(help="of molecules that are not whole")] = 1,
    steps: Annotated[int, typer.Option(help="midpoint steps of the flow")] = 10,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
) -> None:
    """Run the experiment, or what is left of it; writes results.json, a table and a figure."""
    torch.set_num_threads(threads)
    options = Generation(
        pareto=pareto, compare=True, number=directions, draws=draws, evaluations=evaluations,
        restarts=restarts, steps=steps, batch="8",
    )  # fmt: skip
    plan, began = Designing(options), time.process_time()
    job = plan.job()
    store = begin(job, cache / f"molecule_front_{pareto}", about=plan.about(job))
    execute(job, store)
    front, about = Front.of(pareto), store.manifest["about"]["front"]
    rows = Table.of(store).rows
    made = {who: points(front, rows, who) for who in JUDGES}
    history = store.result().history
    drawn = {
        who: torch.stack([history[DRAWS.format(who, name)] for name in front.names], 2)
        for who in JUDGES
    }  # (J, B, K)
    passes = float(np.mean([row["evaluations"] + row["backward passes"] for row in rows]))
    equal = min(len(drawn["guide"]), round(passes / (2 * steps)))
    sets = {
        "draws": {w: list(drawn[w][:draws].unbind(1)) for w in JUDGES},
        "best of K": {w: list(drawn[w][:equal].unbind(1)) for w in JUDGES},
        "steered": {w: list(made[w][:, None]) for w in JUDGES},
        "steered and draws": {
            w: [
                torch.cat((a[None], b))
                for a, b in zip(made[w], drawn[w][:draws].unbind(1), strict=True)
            ]
            for w in JUDGES
        },
    }
    limit = front.costs(torch.tensor(about["reference"], dtype=torch.float64))
    told = compared(front, sets, limit)
    spent = {"draws": 2 * steps * draws, "best of K": 2 * steps * equal}
    for name, row in told.items():
        known = torch.cat(sets[name]["evaluator"])
        row["evaluations"] = spent.get(name, passes)
        row["valid"] = int(known.isfinite().all(1).sum())
        row["on the front"] = int(nondominated(front.costs(known)).sum())
    best = nondominated(front.costs(made["evaluator"])).tolist()
    results = {
        "front": str(front), "directions": directions, "K": equal, "settings": repr(job.method),
        "reference": about["reference"], "rows": told, "seconds": store.summary().get("seconds"),
        "cpu seconds of this call": time.process_time() - began,
        "molecules": [
            {"smiles": row["smiles"], "front": best[i],
             **{who: made[who][i].tolist() for who in JUDGES}}
            for i, row in enumerate(rows)
        ],
        "note": f"K = {equal} draws of each seed; measured from {about['reference']} "
        f"({', '.join(front.names)}).",
    }  # fmt: skip
    place = out or RESULTS / "molecule_front"
    publish(place, results, table(results))
    if len(front.names) == 2:
        _figure(place / "front.png", front, made, drawn["evaluator"][:equal].flatten(0, 1))


def _figure(file: Path, front: Front, made: dict[str, Tensor], draws: Tensor) -> None:
    figure = require("matplotlib.figure", "molecules").Figure(figsize=(6.4, 4.4), dpi=130)
    figure.set_facecolor("white")
    axes = figure.add_subplot()
    draw_front(axes, front, {"draws": draws, **made})
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    figure.tight_layout()
    save_figure(figure, file)


if __name__ == "__main__":
    typer.run(main)
