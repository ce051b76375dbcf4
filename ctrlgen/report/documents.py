"""The JSON files of results, as reports read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["object_of"]


def object_of(file: Path) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is no file.

    Raises:
        ValueError: if it is damaged.
    """
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"dir: {file} is no JSON, it is damaged ({error})") from error
    return value if isinstance(value, dict) else None
