"""What a comparison came to: rows of numbers, verdicts, and the settings to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctrlgen.methods.base import Method
from ctrlgen.rows.errors import UnknownName

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """Methods on the same problems at matched budgets.

    Attributes:
        content: what `result.json` holds, JSON: "rows", one per method and budget, "verdicts", one
            per budget, "criterion", "problems", "search" and "seconds".
        methods: the methods with the settings that were chosen, by (name, budget).
    """

    content: Mapping[str, Any]
    methods: Mapping[tuple[str, int], Method] = field(default_factory=dict, compare=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One per method and budget: `method`, `budget`, `reason` where it did not run, `values` of
        the criterion per problem as far as it came, `mean`, the counts, `setting`, `settings`.

        The mean of one that was left behind is that of the best less their difference."""
        return list(self.content["rows"])

    @property
    def sentences(self) -> list[str]:
        """The recommendation of each budget, in words."""
        return [verdict["sentence"] for verdict in self.content["verdicts"]]

    def best(self, budget: int | None = None) -> Method:
        """The recommended method with its settings, to be called.

        Args:
            budget: one that was compared; the largest by default.

        Raises:
            UnknownName: for another budget, or one at which nothing ran.
        """
        best = {v["budget"]: v["best"] for v in self.content["verdicts"] if v["best"]}
        key = max(best, default=0) if budget is None else budget
        if key not in best:
            raise UnknownName("budget", budget, best)
        return self.methods[best[key], key]

    def table(self) -> str:
        """One line per method and budget, the best of a budget first, as plain text."""
        heads, lines = self.cells()
        rows = [tuple(head.removesuffix(">") for head in heads), *lines]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = [head.endswith(">") for head in heads]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in rows
        )

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heads and lines of a table; a head ends with '>' where its column holds numbers."""
        asked = self.content["criterion"]
        others = [n for n in self.content["metrics"] if n not in (asked["name"], "misfit")]
        several = any(row.get("diversity") is not None for row in self.rows)
        known = any(row.get("calibration") is not None for row in self.rows)
        unit = f" ({asked['unit']})" if asked["unit"] else ""
        heads = (
            "method", "budget>", f"{asked['name']}{unit}>", "behind the best>", "problems>",
            "evaluations>", "backward>", *(f"{name}>" for name in others),
            *(["diversity>"] * several),
            *(["calibration>"] * known), "failed>", "setting",
        )  # fmt: skip
        lines = []
        for row in self.content["rows"]:
            if row["reason"] is not None:
                blank = ("",) * (len(heads) - 3)
                lines.append((row["method"], str(row["budget"]), *blank, row["reason"]))
                continue
            lines.append((
                row["method"], str(row["budget"]), _shown(row["mean"], asked["digits"]),
                _behind(row, asked["digits"] + 1), str(row["problems"]),
                _shown(row["evaluations"], 0), _shown(row["backward_passes"], 0),
                *(_shown(row["metrics"].get(name), 2) for name in others),
                *([_shown(row["diversity"], 3)] * several),
                *([_shown(row["calibration"], 2)] * known), str(row["failed"]), row["setting"],
            ))  # fmt: skip
        return heads, lines


def _behind(row: Mapping[str, Any], digits: int) -> str:
    if row["behind"] is None:
        return "best"
    low, high = row["behind"]["low"], row["behind"]["high"]
    text = _shown(row["behind"]["difference"], digits)
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
