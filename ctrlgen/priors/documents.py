"""Files that others wrote, and ours: strict JSON read within bounds, content written whole.

What JSON leaves open is refused: NaN and infinities, numbers beyond 64 bits, a key that comes
twice, half of a character, nesting without end.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctrlgen.rows.errors import short

__all__ = ["plain_name", "read_object", "write_whole"]


def plain_name(name: Any) -> bool:
    """Whether a name is that of a file in a folder: no path, not hidden, nothing unprintable."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 200
        and name.isprintable()
        and name.strip() == name
        and not name.startswith((".", "-"))
        and not any(sign in name for sign in '/\\:*?"<>|')
    )


def read_object(file: Path, most: int) -> dict[str, Any]:
    """The JSON object of a file.

    Args:
        file: UTF-8 text.
        most: bytes that it may have.

    Raises:
        ValueError: if it is no such file, is larger, or is not strict JSON.
    """
    try:
        if file.exists() and not file.is_file():
            raise ValueError("expected a file")
        with file.open("rb") as stream:
            payload = stream.read(most + 1)
    except OSError as error:
        raise ValueError(f"expected a JSON file ({error.strerror or error})") from error
    if len(payload) > most:
        raise ValueError(f"expected a JSON file of at most {most:,} bytes")
    try:
        content = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_number,
        )
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("expected a JSON file (it is nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"expected a JSON file ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return content


def _reason(error: ValueError) -> str:
    """The reason without what a hostile file could put into it."""
    if isinstance(error, UnicodeError):
        return "it is no UTF-8 text"
    return str(error)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key comes twice")
    return content


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"a number is too large: {short(text)}")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"a number is too large: {short(text)}")
    return number


def write_whole(file: Path, content: bytes | Iterable[bytes], *, fresh: bool = False) -> None:
    """Write a file whole or not at all: beside its place, synchronised to the disk, renamed.

    Args:
        file: to write.
        content: all of it, or its parts.
        fresh: leave a file that is there, and raise FileExistsError.

    Another name for every writer: two of the same file do not meet before the rename. A process
    that is killed in between leaves `.NAME.XXXXXXXX.partial`.
    """
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as stream:
            for part in (content,) if isinstance(content, bytes) else content:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        if fresh:
            os.link(partial, file)
        else:
            os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
