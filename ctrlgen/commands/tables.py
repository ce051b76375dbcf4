"""Tables for terminals of any width: a number or a name is never cut, text is wrapped.

A column whose name ends with '>' holds numbers and stands to the right. A table that is too wide
is continued below by further columns, with the first column repeated, so that 80 columns, or 40,
show everything that 200 do. Text is wrapped down to `_NARROW` columns before that happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table as Lines
from rich.text import Text

__all__ = ["Table"]

_GAP = 2
_NARROW = 24
"""A column of text is not wrapped below this, nor one of at most this width at all."""

_LEAST = 6
"""A column of text is never narrower."""


class Table:
    """A table in the house style, printed by rich.

    Args:
        title: above it, rich markup.
        columns: names; of a number "name>", with its unit.
        rows: cells, rich markup or Text.
    """

    def __init__(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]
    ) -> None:
        self.title = title
        self.names = [name.removesuffix(">") for name in columns]
        self.numbers = [name.endswith(">") for name in columns]
        self.cells = [[_text(cell) for cell in row] for row in rows]
        self.full = [
            max([len(name), *(_wide(row[i]) for row in self.cells)])
            for i, name in enumerate(self.names)
        ]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        full = sum(self.full) + _GAP * (len(self.full) - 1)
        return Measurement(min(full, options.max_width), min(full, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, part in enumerate(self.parts(options.max_width)):
            if number:
                yield Text()
            yield self._lines(part, self.title if number == 0 else "", options.max_width)

    def least(self, column: int) -> int:
        """Columns of the terminal below which this column is not narrowed."""
        full = self.full[column]
        return full if self.numbers[column] or column == 0 else min(full, _NARROW)

    def parts(self, width: int) -> Iterator[list[int]]:
        """Columns that are shown side by side, in order; the first begins every part."""
        part, used = [0], self.least(0)
        for column in range(1, len(self.names)):
            least = self.least(column)
            if used + _GAP + least > width and len(part) > 1:
                yield part
                part, used = [0], self.least(0)
            part.append(column)
            used += _GAP + least
        yield part

    def _lines(self, part: list[int], title: str, width: int) -> Lines:
        made = Lines(
            title=title or None, title_justify="left", title_style="bold", box=None,
            header_style="dim", pad_edge=False, padding=(0, _GAP, 0, 0),
        )  # fmt: skip
        widths = self._widths(part, width)
        for column in part:
            # what must not be narrowed is folded at worst, where a terminal is narrower than it
            made.add_column(
                self.names[column], justify="right" if self.numbers[column] else "left",
                overflow="fold", width=widths[column],
            )  # fmt: skip
        for row in self.cells:
            made.add_row(*(row[column] for column in part))
        return made

    def _widths(self, part: list[int], width: int) -> dict[int, int]:
        """Least widths, and what is left to the columns of text that could use it."""
        widths = {column: self.least(column) for column in part}
        free = width - sum(widths.values()) - _GAP * (len(part) - 1)
        for column in sorted(part, key=lambda c: self.full[c]):
            wanting = sum(
                widths[c] < self.full[c] for c in part if self.full[c] >= self.full[column]
            )
            if widths[column] < self.full[column] and free > 0:
                more = min(self.full[column] - widths[column], free // max(1, wanting))
                widths[column] += more
                free -= more
        for column in reversed(part):  # a very narrow terminal: text gives way, names last
            if free < 0 and not self.numbers[column]:
                less = min(-free, max(0, widths[column] - _LEAST))
                widths[column] -= less
                free += less
        return widths


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(cell)


def _wide(cell: Text) -> int:
    return max((line.cell_len for line in cell.split("\n")), default=0)
