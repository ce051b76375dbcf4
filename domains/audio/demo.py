"""The demonstration: a gap and a missing band of clips that were never trained on, in a minute.

A clip with a hole in it and a clip at a quarter of its rate are written, and restored as `ctrlgen
audio inpaint` and `upsample` do it; the runs lie beside them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctrlgen.commands import console
from ctrlgen.domains.audio.options import Options
from ctrlgen.runs.outputs import naming, new_folder

__all__ = ["run"]

_OPTIONS = Options(iterations=10)
_GAP = "1.8-2.2"  # seconds, a tenth of the clip
_RATE = 4000  # Hz; the prior's is 16 kHz


def run(out: Path | None = None, *, overwrite: bool = False, json: bool = False) -> Path | None:
    """Restore both, in a folder each, and show their tables.

    Args:
        out: folder to write; a new one under runs/ by default.
        overwrite: replace earlier results there.
        json: print the numbers instead of the tables.

    Returns:
        The folder; None, said on the screen, where the extra of audio is not installed.
    """
    if importlib.util.find_spec("soundfile") is None:
        console.screen.print('[dim]sound is skipped: pip install "ctrlgen\\[audio]"[/]')
        return None
    from ctrlgen.domains.audio.commands import restore
    from ctrlgen.domains.audio.degrading import degrade
    from ctrlgen.domains.audio.examples import path

    folder = new_folder("demo-audio") if out is None else out
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    gap, low = folder / "gap.flac", folder / "low.flac"
    ways: dict[str, dict[str, Any]] = {
        "inpaint": {"gap": [_GAP], "labels": None, "auto_gaps": False},
        "upsample": {"rate": 16000},
    }
    degrade(path("freedoom-27"), gap, gap=[_GAP], rate=None, clip=None, overwrite=overwrite)
    degrade(path("freedoom-45"), low, gap=None, rate=_RATE, clip=None, overwrite=overwrite)
    for file, (task, way) in zip((gap, low), ways.items(), strict=True):
        options = replace(_OPTIONS, out=folder / task, overwrite=overwrite, json=json)
        restore("ctrlgen demo", task, file, options, **way)
    return folder
