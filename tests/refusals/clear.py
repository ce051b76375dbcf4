"""When a refusal is clear: our own error, raised by a check, that names the argument."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ctrlgen
from ctrlgen.rows.errors import UnknownName

ROOT = Path(ctrlgen.__file__).resolve().parents[1]
INTERNAL = ("aten::", "c10::", "TORCH_", "Tensor-likes", "object has no attribute", "'NoneType'")


def unclear(act: Callable[[], Any], argument: str) -> str:
    """What is unclear about the refusal of an act; nothing where it is clear.

    Args:
        act: must be refused.
        argument: that the message must name.
    """
    try:
        act()
    except (ValueError, TypeError, UnknownName) as error:
        message = str(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not Path(last.filename).resolve().is_relative_to(ROOT) or ".venv" in last.filename:
            return f"raised by {last.filename}, not by a check: {message}"
        if f"{argument}: " not in message:
            return f"does not name {argument}: {message}"
        if "\n" in message or any(word in message for word in INTERNAL):
            return f"tells of what is inside: {message}"
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "is not refused"


def table(cases: dict[str, tuple[str, Callable[[], Any]]]) -> Any:
    """Cases by name, each an argument and an act, as parameters of a test."""
    return pytest.mark.parametrize(
        ("argument", "act"), [pytest.param(*case, id=name) for name, case in cases.items()]
    )
