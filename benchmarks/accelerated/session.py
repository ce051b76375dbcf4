"""A session on a machine that is lent for minutes: parts in order of value, each within its share.

Whatever a part knows is on disk as soon as it is known: `Record` rewrites its file with every
entry, whole or not at all. A part that raises is recorded with its traceback, and the next one
begins; what a part leaves of its share is there for those after it, and the last takes the rest.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ctrlgen.runs.json_files import write_json

__all__ = ["Clock", "Part", "Record", "conduct", "machine"]


class Clock:
    """Seconds of wall time that are left.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.spent


@dataclass
class Record:
    """Entries of a part, in a JSON file that is always whole.

    Attributes:
        file: where.
        content: what is in it.
    """

    file: Path
    content: dict[str, Any] = field(default_factory=dict)

    def put(self, **entries: Any) -> None:
        """Add entries, or replace them, and write the file."""
        self.content.update(entries)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.content, indent=1)


@dataclass(frozen=True)
class Part:
    """One part of a session.

    Attributes:
        name: of its file, and of `--only`.
        share: of the whole time, in [0, 1]; the last part takes all that is left.
        run: measures, puts what it knows into the record at once, and ends when its clock does.
        headline: the few numbers of its record that the summary repeats.
    """

    name: str
    share: float
    run: Callable[[Record, Clock], None]
    headline: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda content: {})


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    about: dict[str, Any] = {
        "device": device.type, "torch": torch.__version__, "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        about |= {
            "card": known.name, "memory_gib": round(known.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }  # fmt: skip
    return about


def conduct(
    parts: Sequence[Part], out: Path, seconds: float, about: dict[str, Any]
) -> dict[str, Any]:
    """Run parts one after the other; returns what summary.json holds.

    Args:
        parts: in order of value.
        out: folder of `<part>.json` and `summary.json`.
        seconds: for all of them.
        about: of the session, for the summary.
    """
    clock = Clock(seconds)
    summary = Record(out / "summary.json")
    states: dict[str, Any] = {part.name: {"state": "not begun"} for part in parts}
    summary.put(**about, seconds_allowed=round(seconds, 1), parts=states)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        allowed = clock.left if last else min(clock.left, part.share * seconds)
        if allowed <= 0:
            states[part.name] = {"state": "no time left"}
            summary.put(parts=states)
            continue
        record, own = Record(out / f"{part.name}.json"), Clock(allowed)
        states[part.name] = {"state": "running", "seconds_allowed": round(allowed, 1)}
        summary.put(parts=states)
        print(f"{part.name}: {allowed:.0f} s", flush=True)
        state: dict[str, Any] = {"state": "done"}
        try:
            part.run(record, own)
        except Exception as error:  # whatever it was, the next part is worth its time
            state = {"state": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
            record.put(traceback=traceback.format_exc())
            print(f"{part.name}: {state['error']}", flush=True)
        record.put(seconds=round(own.spent, 1))
        state |= {"seconds": round(own.spent, 1), "seconds_allowed": round(allowed, 1)}
        try:
            state |= part.headline(record.content)
        except Exception as error:  # a part that was cut short may lack what it tells
            state["headline"] = f"{type(error).__name__}: {error}"
        states[part.name] = state
        summary.put(parts=states, seconds=round(clock.spent, 1))
    return summary.content
