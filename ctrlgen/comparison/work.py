"""A study at work in its folder: the races, the rows and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ctrlgen.comparison import folder
from ctrlgen.comparison.candidates import Candidate
from ctrlgen.comparison.judges import Psnr, present, tolerance
from ctrlgen.comparison.outcome import Comparison
from ctrlgen.comparison.parts import Part, PartRun
from ctrlgen.comparison.posed import Rows
from ctrlgen.comparison.racing import race
from ctrlgen.comparison.verdicts import Verdict, compared, completed, verdict
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
            own = self._rows([c for c in study.candidates if c.budget == budget])
            ran = {r["method"]: r["values"] for r in own if r["reason"] is None}
            final = verdict(budget, ran, study.criterion, plain)
            verdicts.append(final)
            rows += _ranked(own, final, study.criterion.sign)
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
        index = torch.tensor(study.reported.problems)
        own = study.problem.take(index)
        try:
            signals = own.operator.pinv(own.y)
            assert own.truth is not None
            there = present(study.prior.take(index), own.truth)
            return float(Psnr(own.truth, there)(signals).mean())
        except (NotImplementedError, RuntimeError, ValueError):
            return None

    def _rows(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """The methods at a budget: searched, run and judged."""
        able = [c for c in candidates if c.reason is None]
        rows: dict[str, dict[str, Any]] = {
            c.name: {"method": c.name, "budget": c.budget, "reason": c.reason} for c in candidates
        }
        if self.study.aside.problems:
            self._search(able, rows)
            able = [c for c in able if rows[c.name]["reason"] is None]
        else:
            for c in able:
                rows[c.name] |= {"setting": next(iter(c.settings)), "tuned": {}, "tried": {}}
        runs = {}
        for c in able:
            method = c.settings[rows[c.name]["setting"]]
            words, title = (c.name, c.budget), f"{c.name}, {c.budget} evaluations"
            runs[c.name] = self._run("runs", words, title, method, c.budget, self.study.reported)
        self._race(runs, self.study.reported)
        for name, run in runs.items():
            row = rows[name]
            self.chosen[name, run.budget] = run.part.method
            row["reason"] = run.reason
            if run.problems:
                row |= run.outcome() | {
                    "settings": repr(run.part.method),
                    "folder": str(run.folder.relative_to(self.place)),
                }
            if run.reason is None:
                row |= run.spread()
                if row["failed"] == run.problems * self.study.draws:
                    row["reason"] = "every sample failed or diverged"
        return list(rows.values())

    def _run(
        self,
        kind: str,
        words: Sequence[object],
        title: str,
        method: Method,
        budget: int,
        rows: Rows,
    ) -> PartRun:
        part = Part(title, method, rows)
        observer = None if self.observer is None else self.observer(part)
        where = folder.part(self.place, kind, *words)
        return PartRun(part, budget, where, self.study, self.sigma, observer)

    def _race(self, runs: Mapping[Any, PartRun], rows: Rows) -> Any:
        values = race(runs, len(rows.problems), self.study.criterion.sign)
        for run in runs.values():
            run.finish()
        return values

    def _search(self, able: Sequence[Candidate], rows: Mapping[str, dict[str, Any]]) -> None:
        """Give every row the best of its settings on the problems held aside, or a reason."""
        aside, sign = self.study.aside, self.study.criterion.sign
        runs = {
            (c.name, label): self._run(
                "tune", (c.name, c.budget, label),
                f"{c.name}, {c.budget} evaluations, {label}, tuning", method, c.budget, aside,
            )
            for c in able for label, method in c.settings.items()
        }  # fmt: skip
        values = self._race(runs, aside)
        for run in runs.values():
            if run.problems:
                made = run.outcome()
                self.search["parts"] += 1
                self.search["seconds"] = round(self.search["seconds"] + made["seconds"], 3)
                for count in ("evaluations", "backward_passes"):
                    self.search[count] += round(made[count] * run.problems * aside.draws)
        whole = completed(values, sign)
        means = {key: sum(v) / len(v) for key, v in whole.items()}
        final = [key for key in whole if len(whole[key]) == len(aside.problems)]
        leader = max(final, key=lambda key: sign * means[key], default=None)
        for c in able:
            own = {label: (c.name, label) for label in c.settings if (c.name, label) in whole}
            row = rows[c.name]
            row["tuned"] = {label: means[key] for label, key in own.items()}
            row["tried"] = {label: len(whole[key]) for label, key in own.items()}
            row["setting"] = next(iter(c.settings))
            if not own:
                row["reason"] = runs[c.name, row["setting"]].reason
                continue
            # those that came furthest, and the best of these
            far = max(own, key=lambda label: (len(whole[own[label]]), sign * means[own[label]]))
            row["setting"] = far
            if own[far] not in final:
                assert leader is not None
                lead = compared(whole[own[far]], whole[leader], self.study.criterion, leader[0])
                row["reason"] = (
                    f"left behind on {lead.problems} problems held aside, "
                    f"{lead.interval(self.study.criterion.digits + 1)} from {', '.join(leader)}"
                )


def _ranked(rows: list[dict[str, Any]], final: Verdict, sign: int) -> list[dict[str, Any]]:
    """Rows with their means and how far they are behind, the best first, those without last."""
    behind = {a.method: a for a in final.against}
    ran = [row for row in rows if row["reason"] is None]
    for row in ran:
        other = behind.get(row["method"])
        assert final.mean is not None
        row["mean"] = final.mean - (sign * other.difference if other else 0.0)
        row["behind"] = other and asdict(other)
        row["share"] = final.shares.get(row["method"])
    order = [final.best, *behind]
    ran.sort(key=lambda row: order.index(row["method"]))
    return ran + [row for row in rows if row["reason"] is not None]
