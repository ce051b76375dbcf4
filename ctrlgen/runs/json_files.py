"""JSON as the standard has it (RFC 8259): no NaN, no infinity, and a file whole or not at all.

What is not finite becomes null where a person or another program reads, or one of the strings
"NaN", "Infinity" and "-Infinity" where the file must give the number back: `read_json` does, and so
do `float` and numpy. Lists of numbers are one line. Every JSON file of the project is written here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctrlgen.priors.cards import write_whole

__all__ = ["NAMES", "dumps", "plain", "read_json", "write_json", "write_results"]

NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON has no word for, by the strings in their place."""


_NUMBERS = re.compile(r'\[\s+[^\[\]{}"]*?\s+\]')
"""A list of numbers over several lines; one that holds a text stays as it is."""


def plain(value: Any, named: bool = False, digits: int | None = None) -> Any:
    """The value as JSON has it: tensors and sets as lists, paths as text.

    Args:
        value: nested as it likes.
        named: whether what is not finite becomes a string, rather than null.
        digits: significant decimal digits of floats; None keeps all.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value) if named else None
    if isinstance(value, float) and digits is not None:
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {str(key): plain(item, named, digits) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item, named, digits) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def dumps(
    value: Any, *, named: bool = False, indent: int | None = 2, digits: int | None = None
) -> str:
    """Strict JSON of `plain(value)`, a list of numbers on one line.

    Args:
        value, named, digits: as of `plain`.
        indent: spaces of each level; 0 has no space anywhere, None no lines either.
    """
    value = plain(value, named, digits)
    marks, space = ((",", ":"), "") if indent == 0 else (None, " ")
    text = json.dumps(value, indent=indent, separators=marks, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda hit: f"[{space.join(hit[0][1:-1].split())}]", text)


def write_json(
    file: Path | str,
    value: Any,
    *,
    named: bool = False,
    indent: int | None = 2,
    digits: int | None = None,
) -> None:
    """Write a file of strict JSON, whole or not at all; arguments as of `dumps`."""
    text = dumps(value, named=named, indent=indent, digits=digits)
    write_whole(Path(file), (text + "\n").encode())


def write_results(file: Path | str, value: Any, *, named: bool = True) -> None:
    """Write what was measured, for the tree to keep: floats of six digits, lines without spaces."""
    write_json(file, value, named=named, indent=0, digits=6)


def read_json(file: Path | str) -> Any:
    """What `write_json(..., named=True)` has written, with its numbers."""
    return _numbers(json.loads(Path(file).read_text(encoding="utf-8")))


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return NAMES.get(value, value) if isinstance(value, str) else value
