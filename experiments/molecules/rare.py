r"""Targets that draws do not meet: tails of QM9, values beyond it, and three properties at once.

    python -m ctrlgen.experiments.molecules.rare --data data/qm9 --molecules 12

Kinds of targets, each on as many molecules of `qm9-heavy`:

    tail     the 0.1 % and the 99.9 % quantile of each of the six properties in D_b, in turn
    beyond   the least value of D_b less 10 % of its range, and the largest one and 10 % more
    joint    gap, dipole and polarizability of a molecule of the test split
    typical  a gap of 6.8 eV, which many have

Numbers of heavy atoms are drawn from p(n | targets) of D_b (`atom_counts`). Rows, all of one kind
with the same numbers of atoms and the same first noise:

    unguided         one draw of the prior
    D-Flow           the best whole draw steered by its own L-BFGS, and again where it misses
    best whole of K  the draw that the guide likes best, whole ones first
    evolution        the best whole draw bred by a separable CMA-ES on its source point
    renoising        the best whole draws put back to noise half-way and drawn again, and so on
    ... any size     the same, every draw with a number of atoms of its own
    ... stochastic   the same by stochastic steps, as many evaluations a draw
    ... steered      the same with half of the evaluations, then L-BFGS where it misses
    guidance         the best whole of guided samples: the gradient of the cost of the denoised
                     molecule in every step (DPS-like), of a strength chosen with other noise

All have as many evaluations of the network as D-Flow took, forward and backward, or as `--budget`
says, and then there is no row of D-Flow. Errors are
mean absolute deviations of QM9, the mean over the properties that were asked for: by the guide,
which chose and steered, and by the evaluator, which never saw any of it and is the one to read. An
evaluator was trained on what QM9 has: far outside it knows no more than the guide, so the
difference of the two stands beside them, and the label of QM9's own calculation (DFT) where a
molecule is one of QM9; `--uncertainty` makes it dear to be where the guide is unsure. Intervals are
bootstrap 95 % (BCa of scipy). No molecule is left out of a share; means of errors leave out those
without a value and say how many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.judges import regressor, regressor_card
from ctrlgen.domains.molecules.scoring import EVALUATOR, GUIDES
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.uncertainty import head_covariance
from ctrlgen.experiments.molecules.rare_figures import measure, table
from ctrlgen.experiments.molecules.rare_rows import (
    KINDS,
    POPULATION,
    SIGMA,
    Bench,
    best_of_draws,
    dflow,
    evolution,
    guidance,
    near,
    renoising,
    renoising_steered,
    targets_of,
)
from ctrlgen.experiments.shared.dft_labels import Labels
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.priors.prior import load

__all__ = ["METHODS", "main", "run"]

METHODS = (
    "unguided", "best whole of K", "evolution", "renoising", "renoising any size",
    "renoising stochastic", "renoising steered", "guidance",
)  # fmt: skip
"""Rows beside D-Flow's."""


def run(bench: Bench, rows: Rows, asked: Sequence[str], budget: float | None = None) -> None:
    """The rows of a kind that are asked for, all of as many evaluations of the network a molecule.

    Without a budget D-Flow comes first, and what it takes is it.
    """

    def saved(name: str, compute: Callable[[], tuple[Tensor, dict[str, Any]]]) -> None:
        def row() -> tuple[dict[str, Any], Tensor]:
            began = time.process_time()
            signals, account = compute()
            account["seconds"] = time.process_time() - began
            return {**account, **measure(bench, signals)}, signals

        rows.get(name, row)

    if budget is None:
        saved("D-Flow", lambda: dflow(bench))
        budget = float(rows.rows["D-Flow"]["evaluations"])
    draws = max(1, round(budget / (2 * bench.settings.steps)))
    ways: dict[str, Callable[[], tuple[Tensor, dict[str, Any]]]] = {
        "unguided": lambda: best_of_draws(bench, 1),
        "best whole of K": lambda: best_of_draws(bench, draws),
        "evolution": lambda: evolution(bench, draws),
        "renoising": lambda: renoising(bench, budget),
        "renoising any size": lambda: renoising(bench, budget, sizes=True),
        "renoising stochastic": lambda: renoising(bench, budget, stochastic=True),
        "renoising steered": lambda: renoising_steered(bench, budget),
        "guidance": lambda: guidance(bench, budget),
    }
    for name, compute in ways.items():
        if name in asked:
            saved(name, compute)


def main(
    data: Annotated[Path, typer.Option(help="folder of QM9")] = Path("data/qm9"),
    molecules: Annotated[int, typer.Option(min=1, help="of each kind of targets")] = 12,
    kinds: Annotated[str, typer.Option(help="with commas between")] = ",".join(KINDS),
    methods: Annotated[str, typer.Option(help="beside D-Flow, commas")] = ",".join(METHODS),
    steps: Annotated[int, typer.Option(help="midpoint steps of the flow")] = 10,
    draws: Annotated[int, typer.Option(help="screened for each start of D-Flow")] = 32,
    evaluations: Annotated[int, typer.Option(help="of D-Flow's objective, per start")] = 12,
    restarts: Annotated[int, typer.Option(help="of D-Flow")] = 0,
    budget: Annotated[float | None, typer.Option(min=1, help="evaluations, without D-Flow")] = None,
    uncertainty: Annotated[float, typer.Option(min=0, help="weight of the guide's, squared")] = 0.0,
    strengths: Annotated[str, typer.Option(help="of guidance, to choose from")] = "0.1,1",
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it; writes results.json and a table."""
    torch.set_num_threads(threads)
    asked = names("kinds", kinds, KINDS)
    ways = names("methods", methods, METHODS) if methods else []
    prior = load("qm9-heavy", device=device)
    networks = {"guide": GUIDES["qm9-heavy"], "evaluator": EVALUATOR}
    guide, evaluator = (regressor(name, device) for name in networks.values())
    settings = Settings(
        steps=steps, draws=draws, evaluations=evaluations, restarts=restarts, batch=molecules
    )
    known, held = read("qm9-heavy", data, "D_b"), read("qm9-heavy", data, "test")
    tried = [float(word) for word in strengths.split(",")]
    assert prior.card is not None
    key: dict[str, Any] = {
        "prior": prior.card.sha256, "molecules": molecules, "settings": repr(settings),
        "strengths": tried, "evolution": {"population": POPULATION, "sigma": SIGMA},
        "networks": {k: regressor_card(name)[0].sha256 for k, name in networks.items()},
    }  # fmt: skip
    name = "rare_molecules"
    if budget is not None:
        key["budget"], name = budget, f"rare_molecules_{budget:.0f}"
    covariance = None
    if uncertainty:
        key["uncertainty"], name = uncertainty, f"{name}_W{uncertainty:g}"
        covariance = head_covariance(networks["guide"])
    labels = Labels(data)
    results: dict[str, Any] = {**key, "kinds": {}}
    for kind in asked:
        wanted = targets_of(kind, molecules, known, held)
        bench = Bench(
            prior, guide, evaluator, wanted, settings, tried, labels, uncertainty, covariance
        )  # fmt: skip
        rows = Rows(cache / name / kind, key)
        run(bench, rows, ways, budget)
        results["kinds"][kind] = {
            "targets": wanted.values.tolist(), "columns": wanted.columns.tolist(),
            "counts": wanted.counts.tolist(), "near": near(wanted, known).tolist(),
            "rows": rows.rows,
        }  # fmt: skip
    publish(out or RESULTS / name, results, table(results))


if __name__ == "__main__":
    typer.run(main)
