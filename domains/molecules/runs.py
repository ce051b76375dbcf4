"""The search for molecules as a run: from the options of a command to a job.

The molecules of a unit start again together, and those of others are not waited for: a run that is
cut off and resumed ends as the uninterrupted one, and units may be computed anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctrlgen.commands import console
from ctrlgen.commands.run_options import file_of
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.front_search import FrontSearch, Places
from ctrlgen.domains.molecules.inputs import forgiving, read_molecule, scorer
from ctrlgen.domains.molecules.lead_optimization import LIKENESS
from ctrlgen.domains.molecules.options import Generation, Search
from ctrlgen.domains.molecules.plans import METRIC, Molecules
from ctrlgen.domains.molecules.readers import Record
from ctrlgen.domains.molecules.reports import asked_of, finish, show
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.result_tables import Table
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.steering import Steering
from ctrlgen.runs.job import Job, Metric
from ctrlgen.runs.schema import HISTORY
from ctrlgen.runs.store import Store

__all__ = ["Designing"]


_RAISED = "failed: rank: "
"""Beginning of the flag of a molecule for which the score of the user's raises."""


@dataclass(frozen=True)
class Designing(Molecules):
    """Molecules with what is wanted, from noise or around a lead.

    Attributes:
        atoms: numbers of atoms, see `parse_atoms`.
        lead: file of the molecule to begin with.
        radius: of the ball around it.
    """

    options: Search
    atoms: str | None = None
    lead: Path | None = None
    radius: float = 0.0

    @property
    def number(self) -> int:  # type: ignore[override]
        """Of molecules, where the options do not say."""
        return 16 if self.lead is None else 8

    @property
    def code(self) -> list[Path]:
        """The user's own file, which the run executes."""
        words = [self.options.rank, *(getattr(self.options, "score", None) or [])]
        return [file for word in words if (file := file_of(word)) is not None]

    def settings(self, name: str) -> Settings:
        """How molecules of an alphabet are steered."""
        options = self.options
        own: dict[str, Any] = {}
        if isinstance(options, Generation):
            own = {
                "draws": options.draws,
                "normalise": options.normalise,
                "search": options.search,
                "generations": options.generations,
            }
        unit = options.size(len(self.seeds))
        size = len(self.seeds) if unit == "auto" else unit
        if name == "qm9" and options.device == "cpu":  # where what pads them takes time
            size = min(size, Settings.batch)
        return Settings(
            batch=size,
            steps=options.steps,
            evaluations=options.evaluations,
            tolerance=options.tolerance,
            valence=options.valence,
            restarts=options.restarts,
            **own,
        )

    def job(self) -> Job:
        """The job.

        Raises:
            ValueError: for files, wishes or options that do not fit together.
        """
        options, seeds, wish = self.options, self.seeds, self.options.wish
        lead = None if self.lead is None else read_molecule(self.lead, "file")
        if lead is not None and not options.evaluations:
            raise ValueError("evaluations: a lead is steered, expected at least 1, got 0")
        if lead is not None and wish.like is None:
            wish = replace(wish, like=lead, resemblance=LIKENESS * wish.resemblance)
        designer = Designer(
            wish,
            options.prior,
            atoms=self.atoms,
            guide=options.guide,
            evaluator=options.evaluator,
            device=console.device_named(options.device),
            uncertainty=options.uncertainty,
        )
        settings = self.settings(designer.name)
        front = options.front if isinstance(options, Generation) else None
        rank = None if options.rank is None else scorer(options.rank, designer.name)
        method: Any = Steering(designer, settings, lead, self.radius, rank and forgiving(rank))
        method.task()
        cost = None
        if front is not None and isinstance(options, Generation):
            method = FrontSearch(designer, settings, front, options.compare)
            cost = Places(seeds)
        columns = designer.columns(
            tolerance=settings.tolerance,
            lead=lead,
            xtb="mu" in wish.names and find_spec("tblite") is not None,
            posebusters=options.posebusters,
            traded=() if front is None else front.names,
        )
        metrics: dict[str, Metric] = {METRIC: columns}
        if rank is not None:
            metrics["rank"] = rank
        batch = options.size(len(seeds))
        return Job(designer.prior, cost, method, seeds, batch, metrics, patience=None)

    def about(self, job: Job) -> dict[str, Any]:
        """What the manifest says of it."""
        method: Any = job.method
        designer = method.designer
        about = {"asked": asked_of(designer.wish), "warnings": designer.warnings}
        if isinstance(method, FrontSearch):
            others = method.front.others(designer.wish)
            about["asked"] = [str(method.front), *([] if others is None else asked_of(others))]
            about["front"] = method.front.about(designer.sizes, method.settings.steps)
        return about

    def progress(self, job: Job) -> dict[str, Any]:
        """Costs, in squared mean absolute deviations."""
        return {"unit": "MAD²"}

    def finish(self, job: Job, store: Store) -> dict[str, Any]:
        """SDF, XYZ, CSV, JSON and figure.

        Raises:
            ValueError: where the score of the user's raised for every molecule, after all were
                written.
        """
        steering: Any = job.method
        designer, own = steering.designer, {}
        lead = getattr(steering, "lead", None)
        if lead is not None:
            columns = replace(job.metrics[METRIC], lead=None, xtb=False, posebusters=False)  # type: ignore[type-var]
            given = columns.given([Record(1, "lead", lead)])  # type: ignore[attr-defined]
            (own["lead"],) = Table(given).rows
        content = finish(
            store,
            self.out,
            job.prior,
            names=designer.wish.names,
            beside=lead,
            settings=asdict(steering.settings),
            **own | _asked(designer.wish, store, 2 * steering.settings.steps),
        )
        raised = [[f for f in r["flags"] if f.startswith(_RAISED)] for r in store.records()]
        if all(raised):
            raise ValueError(raised[0][0].removeprefix(_RAISED).partition(": ")[2])
        return content

    def show(self, content: dict[str, Any], folder: Path) -> None:
        """The table, and the path of the file."""
        show(content, self.options.wish.names)


def _asked(wish: Wish, store: Store, evaluations: int) -> dict[str, int]:
    """How often every score was asked for: for each draw and for the end of each start.

    Args:
        wish: whose scores they are; none, no answer.
        store: of the run.
        evaluations: of the network, for a call of the objective.
    """
    if not wish.scores:
        return {}
    calls = 0
    for unit in store.rows():
        starts = unit.tensors.get(f"{HISTORY}starts")
        calls += len(unit.records) if starts is None else int(starts[-1].sum())
        for record in unit.records:
            calls += record["objective_calls"] - record["backward_passes"] // evaluations
    return {"score calls": calls}
