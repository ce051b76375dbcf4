r"""A comparison: from a prior, problems and methods to a verdict at each budget.

    study = Study(prior, problem, methods=["dps", "ddrm"], budgets=[50])
    study.price()                     evaluations that it will take at most
    comparison = study.run("runs/which")

At every budget each method runs with some settings (`ctrlgen.methods.tuned.knobs`) on the third of
the problems that is held aside, and with the best of them, by the mean of the criterion, on the
others; the usual setting wins ties. Nothing that is reported was tuned on, and where there is
nothing to tune all problems are reported. Either is a race (`racing`): who is beyond doubt behind
gets no more problems, and a method all of whose settings are left behind is not reported on. A
method that cannot run is a row with the reason. What a method spent is counted, and one that spent
more than the budget is not recommended.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ctrlgen.comparison.candidates import Entrant, candidates, check_budgets, entrants
from ctrlgen.comparison.folder import begin
from ctrlgen.comparison.judges import LIKELIHOOD, criterion
from ctrlgen.comparison.outcome import Comparison
from ctrlgen.comparison.parts import Part
from ctrlgen.comparison.posed import Posed, Rows, check_posed, split
from ctrlgen.comparison.racing import looks
from ctrlgen.comparison.work import Work
from ctrlgen.extras import require
from ctrlgen.methods.tuned.knobs import FACTORS
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.checks import check_kind, check_sizes
from ctrlgen.runs.fingerprint import fingerprint
from ctrlgen.runs.runner import RunObserver

__all__ = ["Study", "compare"]


class Study:
    """What is to be compared; checked when it is made, before any compute.

    Args:
        prior: bound to one row of conditions per problem, or to none.
        problem: the problems, an `InverseProblem` of several measurements.
        methods: names of `ctrlgen methods`; or by name a method of your own settings, or a function
            from a number of evaluations to one, or None for the tuned one; None for all.
        budgets: evaluations of the network a sample.
        metric: "psnr", "posterior", "residual", or a function; see `judges.criterion`.
        draws: samples of each problem; 1 where the truth is known, else 2.
        factors: of the methods' knobs, beside 1; empty for no search.
        batch: samples that are computed together.
        seed: of the first draw of the first problem.

    Raises:
        TypeError, ValueError: for parts of another kind or out of range.
        UnknownName: for a method that is none.
        MissingExtra: without scipy, which the intervals need.
    """

    def __init__(
        self,
        prior: Prior,
        problem: Posed,
        methods: Sequence[str] | Mapping[str, Entrant | None] | None = None,
        budgets: int | Sequence[int] = (50,),
        *,
        metric: str | Callable[..., Any] | None = None,
        draws: int | None = None,
        factors: Sequence[float] = FACTORS,
        batch: int = 64,
        seed: int = 0,
    ) -> None:
        check_kind(Prior, prior=prior)
        check_posed(problem)
        self.draws = (1 if problem.truth is not None else 2) if draws is None else draws
        check_sizes(draws=self.draws, batch=batch)
        for factor in factors:
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
                raise ValueError(f"factors: expected numbers above 0, got {factor!r}")
        require("scipy.stats", "report")
        self.prior, self.problem, self.batch, self.seed = prior, problem, batch, seed
        self.criterion = criterion(metric, problem, prior)
        self.budgets, self.factors = check_budgets(budgets), tuple(factors)
        self.entrants = entrants(methods, problem.operator.differentiable)
        every = len(problem.y)
        if every < 3:
            self.factors = ()
        self.candidates = candidates(prior, problem, self.entrants, self.budgets, self.factors)
        tuned = any(len(c.settings) > 1 for c in self.candidates)
        aside, reported = split(every) if tuned else ([], list(range(every)))
        self.aside, self.reported = self._rows(aside), self._rows(reported)

    def _rows(self, problems: Sequence[int]) -> Rows:
        return Rows(tuple(problems), self.draws, len(self.problem.y), self.seed)

    def key(self) -> dict[str, Any]:
        """What the numbers depend on, as of a run."""
        return {
            "prior": fingerprint(self.prior),
            "problem": fingerprint(self.problem),
            "methods": {f"{c.name}-{c.budget}": fingerprint(c.settings) for c in self.candidates},
            "criterion": fingerprint(self.criterion),
            "draws": self.draws,
            "looks": [looks(len(rows.problems)) for rows in (self.aside, self.reported)],
            "batch": self.batch,
            "seed": self.seed,
        }

    def price(self) -> dict[str, int]:
        """What the comparison takes at most.

        Returns:
            `parts`, run folders; `search` and `reported`, evaluations of the network by methods;
            `judged`, those of the likelihood, with as many backward passes; `samples`.
        """
        parts = search = reported = samples = 0
        for c in self.candidates:
            tried = len(c.settings) if self.aside.problems else 0
            parts += tried + bool(c.settings)
            search += tried * len(self.aside) * c.budget
            reported += bool(c.settings) * len(self.reported) * c.budget
            samples += tried * len(self.aside) + bool(c.settings) * len(self.reported)
        judged = samples * LIKELIHOOD if self.criterion.likelihood else 0
        return {
            "parts": parts, "samples": samples,
            "search": search, "reported": reported, "judged": judged,
        }  # fmt: skip

    def seconds(self) -> tuple[float, float]:
        """How long that takes about, without and with a backward pass for every evaluation.

        A batch is passed through the network twice, forth and back, and the second time counts.
        """
        price, rows = self.price(), min(self.batch, max(len(self.reported), 1))
        index = torch.arange(rows) % len(self.problem.y)
        prior = self.prior.take(index)
        x = prior.start(list(range(rows)))
        for _ in range(2):
            began = time.perf_counter()
            with torch.enable_grad():
                state = x.detach().requires_grad_()
                moved = prior.predict(state, torch.full((rows,), 0.5, device=x.device)).data
            forth = time.perf_counter() - began
            torch.autograd.grad(moved.sum(), state)
            both = time.perf_counter() - began
        passes, judged = (price["search"] + price["reported"]) / rows, price["judged"] / rows
        return passes * forth + judged * both, (passes + judged) * both

    def run(
        self,
        out: Path | str | None = None,
        observer: Callable[[Part], RunObserver | None] | None = None,
        **about: Any,
    ) -> Comparison:
        """Compare, or go on where a folder was left.

        Args:
            out: folder; None for one that is gone afterwards.
            observer: called with every part, gives the observer of its run.
            **about: `command`, `plan` and `title` of the manifest.

        Raises:
            OtherRun: if the folder holds another comparison.
            Held: if another process has it.
        """
        if out is None:
            with tempfile.TemporaryDirectory(prefix="ctrlgen-compare-") as passing:
                return self.run(passing, observer, **about)
        place = Path(out)
        with begin(place, self.key(), **about):
            return Work(self, place, observer).comparison()


def compare(
    prior: Prior,
    problem: Posed,
    methods: Sequence[str] | Mapping[str, Entrant | None] | None = None,
    budgets: int | Sequence[int] = (50,),
    *,
    folder: Path | str | None = None,
    observer: Callable[[Part], RunObserver | None] | None = None,
    **options: Any,
) -> Comparison:
    """Compare methods on problems at matched budgets of network evaluations.

    Args:
        prior: see `Study`.
        problem: see `Study`.
        methods: see `Study`.
        budgets: see `Study`.
        folder: of the comparison; the same call goes on where it was left. None for none.
        observer: called with every part of the comparison, gives the observer of its run or None.
        **options: `metric`, `draws`, `factors`, `batch` and `seed` of `Study`.

    Raises:
        TypeError, ValueError, UnknownName: as `Study`, before any compute.
        OtherRun: if the folder holds another comparison.
    """
    study = Study(prior, problem, methods, budgets, **options)
    return study.run(folder, observer)
