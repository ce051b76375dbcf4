"""A study at work in its folder: the search, the runs, the rows and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ctrlgen.comparison import calibration, folder
from ctrlgen.comparison.candidates import Candidate
from ctrlgen.comparison.judges import Psnr, present, tolerance
from ctrlgen.comparison.outcome import Comparison
from ctrlgen.comparison.parts import Part, outcome, run_part
from ctrlgen.comparison.posed import Rows
from ctrlgen.comparison.verdicts import Verdict, completed, verdict
from ctrlgen.methods.base import Method
from ctrlgen.runs.runner import RunObserver

if TYPE_CHECKING:
    from ctrlgen.comparison.study import Study

__all__ = ["Work"]


class Work:
    """A study at work in its folder.

    Args:
        study: what is compared.
        place: its folder, held by this process.
        observer: called with every part, gives the observer of its run.
    """

    def __init__(
        self, study: Study, place: Path, observer: Callable[[Part], RunObserver | None] | None
    ) -> None:
        self.study, self.place, self.observer = study, place, observer
        self.sigma = tolerance(study.problem)
        self.chosen: dict[tuple[str, int], Method] = {}
        self.search = {"parts": 0, "evaluations": 0, "backward_passes": 0, "seconds": 0.0}

    def comparison(self) -> Comparison:
        """All rows and verdicts; what is finished in the folder is read."""
        study = self.study
        rows, verdicts = list[dict[str, Any]](), list[Verdict]()
        plain = self._plain()
        for budget in study.budgets:
            own = [self._row(c) for c in study.candidates if c.budget == budget]
            ran = {r["method"]: r["values"] for r in own if r["reason"] is None}
            final = verdict(budget, ran, study.criterion, plain)
            verdicts.append(final)
            rows += _ranked(own, ran, final, study.criterion.sign)
        metrics = dict.fromkeys(n for r in rows if r["reason"] is None for n in r["metrics"])
        content = {
            "schema": folder.SCHEMA,
            "kind": f"{folder.KIND}-result",
            "complete": True,
            "criterion": {
                k: getattr(study.criterion, k) for k in ("name", "unit", "better", "digits")
            },
            "problems": {
                "reported": list(study.reported.problems), "aside": list(study.aside.problems),
                "draws": study.draws, "sigma": self.sigma, "plain": plain,
            },
            "metrics": list(metrics),
            "factors": list(study.factors),
            "rows": rows,
            "verdicts": [asdict(v) for v in verdicts],
            "search": self.search,
            "seconds": round(sum(r.get("seconds", 0) for r in rows) + self.search["seconds"], 3),
        }  # fmt: skip
        folder.write_result(self.place, content)
        return Comparison(content, self.chosen)

    def _plain(self) -> float | None:
        """PSNR of the pseudo-inverse, mean over the reported problems."""
        study = self.study
        if study.criterion.name != "psnr":
            return None
        own = study.problem.take(torch.tensor(study.reported.problems))
        try:
            signals = own.operator.pinv(own.y)
            assert own.truth is not None
            prior = study.prior.take(torch.tensor(study.reported.problems))
            return float(Psnr(own.truth, present(prior, own.truth))(signals).mean())
        except (NotImplementedError, RuntimeError, ValueError):
            return None

    def _part(self, title: str, method: Method, rows: Rows, where: Path) -> dict[str, Any] | str:
        study, part = self.study, Part(title, method, rows)
        observer = None if self.observer is None else self.observer(part)
        store = run_part(
            part, where, study.prior, study.problem, study.criterion, self.sigma, study.batch,
            observer,
        )  # fmt: skip
        if isinstance(store, str):
            return store
        made = outcome(store, rows, study.criterion, study.prior)
        made["calibration"] = None
        if rows is study.reported and calibration.is_known(study.prior, study.problem):
            samples = store.result().samples
            made["calibration"] = calibration.distance(study.prior, study.problem, samples, rows)
        return made

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        """A method at a budget: searched, run and judged."""
        name, budget = candidate.name, candidate.budget
        row: dict[str, Any] = {"method": name, "budget": budget, "reason": candidate.reason}
        if candidate.reason is not None:
            return row
        setting, scores, reason = self._search(candidate)
        row |= {"setting": setting, "tuned": scores}
        if reason is not None:
            return row | {"reason": reason}
        method = candidate.settings[setting]
        where = folder.part(self.place, "runs", name, budget)
        title = f"{name}, {budget} evaluations"
        made = self._part(title, method, self.study.reported, where)
        if isinstance(made, str):
            return row | {"reason": made}
        self.chosen[name, budget] = method
        row |= made | {"settings": repr(method), "folder": str(where.relative_to(self.place))}
        if made["most"] > budget:
            spent = f"it spent {made['most']} evaluations, more than the budget"
            return row | {"reason": spent}
        if made["failed"] == len(self.study.reported):
            return row | {"reason": "every sample failed or diverged"}
        return row

    def _search(self, candidate: Candidate) -> tuple[str, dict[str, float | None], str | None]:
        """The setting of the best mean on the problems held aside, all means, and a failure."""
        labels, aside, asked = list(candidate.settings), self.study.aside, self.study.criterion
        if len(labels) == 1:
            return labels[0], {}, None
        values: dict[str, Sequence[float | None]] = {}
        reason = ""
        for label in labels:
            where = folder.part(self.place, "tune", candidate.name, candidate.budget, label)
            title = f"{candidate.name}, {candidate.budget} evaluations, {label}, tuning"
            made = self._part(title, candidate.settings[label], aside, where)
            if isinstance(made, str):
                reason = made
                continue
            self.search["parts"] += 1
            self.search["seconds"] = round(self.search["seconds"] + made["seconds"], 3)
            for count in ("evaluations", "backward_passes"):
                self.search[count] += round(made[count] * len(aside))
            if made["most"] <= candidate.budget:
                values[label] = made["values"]
        if not values:
            reason = reason or "every setting spent more than the budget"
            return labels[0], {}, reason
        whole = completed(values, asked.sign)
        scores = {label: sum(v) / len(v) for label, v in whole.items()}
        best = max(scores, key=lambda label: asked.sign * scores[label])
        return best, dict(scores), None


def _ranked(
    rows: list[dict[str, Any]], ran: Mapping[str, Any], final: Verdict, sign: int
) -> list[dict[str, Any]]:
    """Rows with their means and how far they are behind, the best first, those without last."""
    whole = completed(ran, sign) if ran else {}
    behind = {a.method: asdict(a) for a in final.against}
    for row in rows:
        if row["reason"] is None:
            values = whole[row["method"]]
            row["mean"] = sum(values) / len(values)
            row["behind"] = behind.get(row["method"])
            row["share"] = final.shares.get(row["method"])
    last = [row for row in rows if row["reason"] is not None]
    first = [row for row in rows if row["reason"] is None]
    return sorted(first, key=lambda row: -sign * row["mean"]) + last
