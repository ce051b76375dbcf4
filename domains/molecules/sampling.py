"""Molecules drawn from a prior, steered by nothing, into files, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.commands import console
from ctrlgen.domains.molecules.atom_counts import sizes
from ctrlgen.domains.molecules.molecule_batches import Found, alphabet_of, fitted
from ctrlgen.domains.molecules.requirements import parse_atoms
from ctrlgen.domains.molecules.result_tables import Sheet
from ctrlgen.domains.molecules.runs import bare_sheet, keeping, show_end
from ctrlgen.priors.conditions import BoundVelocity
from ctrlgen.priors.flows import Evaluations
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.errors import concerning
from ctrlgen.rows.status import Status
from ctrlgen.solvers.failures import lost_seeds, lost_text

__all__ = ["draw", "sample", "unsteered"]


def draw(
    prior: Prior,
    atoms: str | None,
    seeds: list[int],
    sheet: Sheet,
    steps: int,
    batch: int,
    keep: Callable[[], None],
    lost: list[dict[str, Any]],
) -> Evaluations:
    """Molecules of the prior alone, into a sheet, batch by batch.

    Args:
        prior: of molecules.
        atoms: "N" or "LOW..HIGH"; sizes are drawn as QM9 has them.
        seeds: one per molecule.
        sheet: to fill.
        steps: midpoint steps.
        batch: molecules at a time.
        keep: called whenever the sheet has grown.
        lost: grows by the molecules that are no numbers, see `solvers.failures.lost_seeds`.
    """
    name, before = alphabet_of(prior), prior.flow.evaluations.copy()
    allowed = [n for n in parse_atoms(atoms, name) if n <= prior.source.shape[0]]
    drawn = sizes(name).only(allowed).draw([], seeds)
    for rows in torch.arange(len(seeds)).split(batch):
        counts, own = drawn[rows], torch.tensor(seeds)[rows]
        bound, solver = fitted(prior, counts), prior.solver(steps)
        signals = bound.sample(own, solver)
        good = signals.isfinite().flatten(1).all(1)
        if not bool(good.all()):
            lost += lost_seeds(solver, BoundVelocity(bound), bound.start(own), own.tolist(), good)
        sheet.add(unsteered(signals, counts, own), rows.tolist())
        keep()
    return prior.flow.evaluations - before


def unsteered(signals: Tensor, counts: Tensor, seeds: Tensor) -> Found:
    """Molecules that nothing was asked of, as rows of a sheet take them."""
    zero = torch.zeros_like(seeds)
    return Found(
        signals=signals, controls=signals, costs=zero.float(), counts=counts, seeds=seeds,
        status=torch.full_like(seeds, int(Status.FINISHED)), iterations=zero, evaluations=zero,
        backward_passes=zero, objective_calls=zero, starts=zero + 1, satisfied=zero.bool(),
    )  # fmt: skip


def sample(
    prior: str,
    seeds: list[int],
    atoms: str | None,
    steps: int,
    batch: int,
    evaluator: str | None,
    device: str,
    file: Path,
    json: bool,
    posebusters: bool = False,
) -> None:
    """Draw molecules of a prior into files, and show them.

    Raises:
        ValueError: after that, if some of them are no numbers; says at which step they arose.
    """
    with concerning("prior"):
        model = load(prior, device=console.device_named(device))
    name, begun = alphabet_of(model), time.perf_counter()
    sheet = bare_sheet(name, seeds, evaluator, device, posebusters=posebusters)
    parse_atoms(atoms, name)
    card = model.card
    content: dict[str, Any] = {
        "asked": [],
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "solver": repr(model.solver(steps)),
        "lost": [],
    }
    lost, keep = content["lost"], lambda: sheet.write(file)
    with keeping(file, sheet, content, begun):
        spent = draw(model, atoms, seeds, sheet, steps, batch, keep, lost)
    show_end(file, sheet, content, begun, spent, json)
    if lost:
        raise ValueError(f"prior: {lost_text(lost, steps)}")
