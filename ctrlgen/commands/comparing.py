"""How `ctrlgen compare` makes its study, runs it and shows it, and how it goes on after a kill."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from ctrlgen import plugins
from ctrlgen.commands import console
from ctrlgen.commands.report import announce
from ctrlgen.commands.run_options import Running, absolute, check_files
from ctrlgen.comparison.folder import manifest
from ctrlgen.comparison.judges import NAMED
from ctrlgen.comparison.outcome import Comparison
from ctrlgen.comparison.parts import Part
from ctrlgen.comparison.study import Study
from ctrlgen.methods.tuned.knobs import FACTORS
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.errors import ResultError, concerning
from ctrlgen.runs.interrupts import exit_code
from ctrlgen.runs.runner import Begun, Finished, Note, Round, RunObserver
from ctrlgen.runs.spec import describe, rebuild

__all__ = ["Comparing", "carry_out", "go_on", "tell"]


@dataclass(frozen=True)
class Comparing:
    """A comparison by the words of its command, from which `ctrlgen resume` makes it again.

    Attributes:
        prior: name, card, or FILE.py:NAME.
        problem: FILE.py:NAME, or None.
        task: of a domain, or None.
        files: of the task.
        arguments: of the problem or the task.
        methods: names; None for all.
        budgets: evaluations a sample.
        metric: name, FILE.py:NAME, or None.
        draws, factors, batch, seed: of `Study`.
        device: of the prior.
    """

    prior: str
    problem: str | None = None
    task: str | None = None
    files: tuple[Path, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    budgets: tuple[int, ...] = (50,)
    metric: str | None = None
    draws: int | None = None
    factors: tuple[float, ...] = FACTORS
    batch: int = 64
    seed: int = 0
    device: str = "cpu"

    def study(self) -> Study:
        """The study; reads the files."""
        prior = self._prior()
        metric: Any = self.metric
        if metric is not None and metric not in NAMED:
            if ":" not in metric:
                names = ", ".join(NAMED)
                raise ValueError(f"metric: expected {names} or FILE.py:NAME, got {metric!r}")
            metric = plugins.named(metric, "metric")
            if not callable(metric):
                raise ValueError(f"metric: expected a function, got {metric!r}")
        return Study(
            prior, self._problem(prior), self.methods, list(self.budgets), metric=metric,
            draws=self.draws, factors=self.factors, batch=self.batch, seed=self.seed,
        )  # fmt: skip

    def _prior(self) -> Prior:
        device = console.device_named(self.device)
        if ".py:" not in self.prior:
            with concerning("prior"):
                return load(self.prior, device=device)
        made = plugins.named(self.prior, "prior")
        made = made() if callable(made) and not isinstance(made, Prior) else made
        if not isinstance(made, Prior):
            raise ValueError(f"prior: expected a Prior from {self.prior}, got {made!r}")
        return made

    def _problem(self, prior: Prior) -> Any:
        if self.problem is not None:
            made = plugins.named(self.problem, "problem")
            if not callable(made):
                if self.arguments:
                    raise ValueError(f"arg: {self.problem} is no function, which takes them")
                return made
            wanted = inspect.signature(made).parameters
            given = {"prior": prior} if "prior" in wanted else {}
            try:
                inspect.signature(made).bind(**given, **self.arguments)
            except TypeError as error:
                raise ValueError(f"arg: {self.problem}: {error}") from error
            return made(**given, **self.arguments)
        domains = plugins.domains().values()
        name = None if prior.card is None else prior.card.domain
        able = [d for d in domains if d.pose is not None and (name is None or d.name == name)]
        if not able or able[0].pose is None:
            raise ValueError(f"task: no problems of files are known for priors of {name}")
        return plugins.resolve(able[0].pose)(self.task, self.files, prior, **self.arguments)

    def code(self) -> list[Path]:
        """The files of code that it runs."""
        named = (self.prior, self.problem, self.metric)
        return [Path(text.rpartition(":")[0]) for text in named if text and ".py:" in text]

    def lasting(self) -> Comparing:
        """The same by paths that hold from any folder."""
        paths: dict[str, Any] = {
            name: absolute(getattr(self, name)) for name in ("prior", "problem", "metric")
        }
        own = dict(self.arguments)
        if isinstance(own.get("mask"), str):
            own["mask"] = str(Path(own["mask"]).absolute())
        files = tuple(file.absolute() for file in self.files)
        return replace(self, **paths, files=files, arguments=own)


def tell(study: Study, json: bool) -> None:
    """Say what a comparison would take.

    Args:
        study: what is compared.
        json: whether to print JSON.
    """
    price, (least, most) = study.price(), study.seconds()
    refused = {f"{c.name} at {c.budget}": c.reason for c in study.candidates if c.reason}
    if json:
        content = {**price, "seconds": [least, most], "refused": refused}
        print(console.dumps(content))
        return
    console.say(
        f"{price['parts']} runs, {price['samples']} samples: at most {price['reported']} "
        f"evaluations of the network for the {len(study.reported.problems)} problems that are "
        f"reported, and {price['search']} for the search on {len(study.aside.problems)} others"
    )
    if price["judged"]:
        console.say(f"and {price['judged']} with backward passes for likelihoods")
    console.say(
        f"about {_minutes(least)} without backward passes, {_minutes(most)} with one for each"
    )
    for name, reason in refused.items():
        console.say(f"{name}: {reason}")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class _Watch:
    """Progress over all parts, in evaluations."""

    def __init__(self, study: Study) -> None:
        price = study.price()
        total = price["search"] + price["reported"]
        self.progress = console.Progress("comparing", total, "evaluations")
        self.budgets = {id(m): c.budget for c in study.candidates for m in c.settings.values()}

    def __call__(self, part: Part) -> RunObserver:
        each, begun = self.budgets[id(part.method)], list[Begun]()

        def watch(event: Begun | Round | Finished | Note) -> None:
            if isinstance(event, Begun):
                self.progress.title = event.title
                if not begun:  # else it goes on with the next problems
                    self.progress.advance(event.finished * each)
                begun.append(event)
            elif isinstance(event, Finished):
                self.progress.advance(len(event.records) * each)
            elif isinstance(event, Note):
                console.warn(event.text)

        return watch


def carry_out(
    plan: Comparing, study: Study, place: Path, json: bool, *, command: str, title: str
) -> None:
    """Run a comparison into a folder, and show what it came to.

    Args:
        plan: of the manifest, by paths that last.
        study: of that plan.
        place: the folder, new or of the same comparison.
        json: whether to print the numbers.
        command: the words that were typed.
        title: a line for people.

    Raises:
        typer.Exit: after an interruption, when what is finished is kept and said.
    """
    watch = _Watch(study)
    try:
        with watch.progress:
            made = study.run(place, watch, command=command, title=title, plan=describe(plan))
    except KeyboardInterrupt as stop:
        goes_on = f"ctrlgen resume {shlex.quote(str(place))} goes on"
        console.warn(f"interrupted; what is finished is in {place}; {goes_on}")
        if not any(place.glob("**/*.jsonl")):
            raise
        raise typer.Exit(exit_code(stop)) from None
    if json:
        print(console.dumps({"folder": place, **made.content}))
    else:
        _show(made, place)
    announce(place)


def _show(made: Comparison, place: Path) -> None:
    heads, lines = made.cells()
    rows = [tuple(escape(cell) for cell in line) for line in lines]
    console.stdout.print(console.table("Methods, the best of a budget first", heads, rows))
    search = made.content["search"]
    if search["parts"]:
        console.say(
            f"\nsearch: {search['parts']} runs on {len(made.content['problems']['aside'])} "
            f"problems held aside, {search['evaluations']} evaluations and "
            f"{search['backward_passes']} backward passes"
        )
    console.say("\n" + "\n".join(made.sentences))
    console.say(f"\n{place / 'result.json'}")


def go_on(folder: Path, running: Running, json: bool = False) -> None:
    """Go on with a comparison.

    Raises:
        ResultError: if a script began it, or it runs code of a file that is not trusted by name.
        OtherRun: if a file that it reads, or a prior, is another now.
    """
    if any(getattr(running, f.name) for f in fields(running)):
        raise ValueError("workers: a comparison runs in one process, with the batch that it has")
    content = manifest(folder)
    if content.get("plan") is None:
        raise ResultError(
            f"{folder} was begun by a Python script; run that script again with this folder: what "
            "is finished is kept"
        )
    plan = rebuild(content["plan"])
    if not isinstance(plan, Comparing):
        raise ResultError(f"{folder}: expected the plan of a comparison, got {plan!r}")
    code = plan.code()
    check_files(folder, (*code, *plan.files), code)
    about = {name: content.get(name, "") for name in ("command", "title")}
    carry_out(plan, plan.study(), folder, json, **about)
