"""Molecules drawn from a prior, steered by nothing or by a score: a run, into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ctrlgen import plugins
from ctrlgen.commands import console
from ctrlgen.commands.scoring import STOCHASTIC
from ctrlgen.costs import BlackBoxCost
from ctrlgen.domains.molecules.atom_counts import sizes
from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.elements import described
from ctrlgen.domains.molecules.judges import judge
from ctrlgen.domains.molecules.molecule_batches import CHURN, alphabet_of, fitted, padded, stepping
from ctrlgen.domains.molecules.options import Sample
from ctrlgen.domains.molecules.plans import METRIC, Molecules
from ctrlgen.domains.molecules.rdkit_scores import SCALES, parse_scores
from ctrlgen.domains.molecules.reports import finish
from ctrlgen.domains.molecules.requirements import parse_atoms
from ctrlgen.domains.molecules.scoring import EVALUATOR
from ctrlgen.domains.molecules.views import Molecules as MoleculeView
from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Observer
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.errors import concerning
from ctrlgen.rows.status import Status
from ctrlgen.runs.job import Job
from ctrlgen.runs.store import Store
from ctrlgen.runs.unsteered import Unsteered, lost
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.solvers.failures import lost_text
from ctrlgen.solvers.fixed import FixedStep

__all__ = ["Drawing", "Draws", "evaluator_of"]


def evaluator_of(name: str | None, device: str = "cpu") -> Any:
    """The evaluator that is named, or the embedded one; None where that is not installed."""
    if name is None and EVALUATOR not in plugins.cards():
        return None
    return judge(name or EVALUATOR, device)


@dataclass(frozen=True)
class Draws:
    """Draws of a prior of molecules, with as many places as the largest of a unit needs.

    Attributes:
        solver: of the flow, or a sampler.
    """

    solver: FixedStep | Sampler

    def __call__(
        self,
        prior: Prior,
        cost: Any = None,
        *,
        seeds: Sequence[int],
        observer: Observer | None = None,
    ) -> Result:
        """The draws of a prior that is bound to the numbers of atoms of the seeds."""
        own = fitted(prior, prior.conditions["counts"])
        result = Unsteered(self.solver)(own, seeds=seeds)
        exists = own.source.mask(result.samples).unsqueeze(2)  # type: ignore[attr-defined]
        samples = torch.where(exists, result.samples, 0)
        return replace(
            result, samples=padded(samples, prior), controls=padded(result.controls, prior)
        )


@dataclass(frozen=True)
class Drawing(Molecules):
    """Molecules of a prior alone, or by a score of theirs."""

    options: Sample

    @property
    def code(self) -> list[Path]:
        """The user's own file, which the run executes."""
        scoring = self.options.scoring
        return [] if scoring is None else scoring.code

    def job(self) -> Job:
        """The job; numbers of atoms are drawn as the prior's data have them.

        Raises:
            ValueError: for a prior of something else, numbers of atoms that it does not have, or
                stochastic steps with a method that takes none.
        """
        options, seeds = self.options, self.seeds
        scoring = options.scoring
        if scoring is not None and options.churn and scoring.name not in STOCHASTIC:
            raise ValueError(
                f"churn: expected none with {scoring.name}, which solves its points again, got "
                f"{options.churn:g}"
            )
        device = console.device_named(options.device)
        with concerning("prior"):
            prior = load(options.prior, device=device)
        name = alphabet_of(prior)
        allowed = [n for n in parse_atoms(options.atoms, name) if n <= prior.source.shape[0]]
        known = described(name).properties
        shown = set(() if known else SCALES)
        churn = CHURN if options.churn is None else options.churn
        method: Any = Draws(stepping(prior, options.steps, churn or None))
        cost: Any = None
        if scoring is not None:  # molecules without a score are there, and marked
            if scoring.code:
                cost = BlackBoxCost(**scoring.box(), view=MoleculeView(name))
            else:
                wishes = parse_scores(scoring.reference)
                cost = sum(wish.cost(name) for wish in wishes)
                shown |= {wish.name for wish in wishes}
            method = scoring.method(prior, options.steps, churn or None)
        columns = Columns(
            name,
            evaluator=evaluator_of(options.evaluator, device) if known else None,
            posebusters=options.posebusters,
            scores=tuple(key for key in SCALES if key in shown),
        )
        bound = prior.bind(counts=sizes(name).only(allowed).draw([], seeds))
        unit = options.size(len(seeds))
        return Job(bound, cost, method, seeds, unit, {METRIC: columns}, patience=None)

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """SDF, XYZ, CSV, JSON and figure.

        Raises:
            ValueError: for molecules that are no numbers, after all were written: at which step
                they arose.
        """
        diverged = Status.DIVERGED.label
        ids = [record["id"] for record in store.records() if record["status"] == diverged]
        if self.options.scoring is not None:
            return finish(store, self.out, job.prior, method=repr(job.method))
        gone = lost(job, ids)
        solver: FixedStep | Sampler = job.method.solver  # type: ignore[attr-defined]
        content = finish(store, self.out, job.prior, solver=repr(solver), lost=gone)
        if gone:
            raise ValueError(f"prior: {lost_text(gone, self.options.steps)}")
        return content
