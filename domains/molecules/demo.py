"""The demonstration: molecules steered to a gap, with their values and a figure, in minutes.

Every molecule starts from its own seed and its own number of heavy atoms; the guide steers it, the
evaluator, where it is installed, is asked once at the end.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import typer

from ctrlgen.commands import console
from ctrlgen.commands.report import announce
from ctrlgen.domains.molecules.design import Designer
from ctrlgen.domains.molecules.properties import parse_request
from ctrlgen.domains.molecules.reports import about, finish, show
from ctrlgen.domains.molecules.requirements import Wish
from ctrlgen.domains.molecules.runs import BatchProgress
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.runs.interrupts import exit_code
from ctrlgen.runs.outputs import output_folder, reserved

__all__ = ["run"]

_REQUEST = "gap=5.5eV"  # QM9's mean is 6.9 eV, its mean absolute deviation 1.1
_COUNT = 8  # the network computes in eights: further starts of one cost as much as those of all
_SETTINGS = Settings(steps=10, tolerance=0.15, restarts=1)  # a guide errs by as much


def run(out: Path | None = None, *, overwrite: bool = False, json: bool = False) -> Path | None:
    """Steer molecules, write result.sdf, .csv, .json and .png, and show a table.

    Args:
        out: folder to write; a new one under runs/ by default.
        overwrite: replace earlier results there.
        json: print the numbers instead of the table.

    Returns:
        The figure's path; None, said on the screen, where the extra of molecules is not installed.
    """
    if importlib.util.find_spec("rdkit") is None:
        console.screen.print('[dim]molecules are skipped: pip install "ctrlgen\\[molecules]"[/]')
        return None
    with reserved(out, "demo-molecules", overwrite=overwrite) as folder:
        begun, cause, network = time.perf_counter(), None, None
        designer = Designer(Wish(requests=(parse_request(_REQUEST),)))
        sheet = designer.sheet(list(range(_COUNT)), tolerance=_SETTINGS.tolerance)
        content = about(designer, _SETTINGS, "ctrlgen demo")
        progress = BatchProgress(_COUNT)
        try:
            network = designer.run(designer.task(), sheet, _SETTINGS, watch=progress).network
        except KeyboardInterrupt as stop:
            if not sheet.rows:
                raise
            cause = stop
        finally:
            progress.close()
        seconds = time.perf_counter() - begun
        with output_folder(folder) as place:
            file = place / "result.sdf"
            content = finish(file, sheet, content, seconds, network, complete=cause is None)
    if cause is not None:
        there = f"{len(sheet.rows)} of {_COUNT} molecules"
        console.warn(f"interrupted; {there} are in {folder / 'result.sdf'}")
        raise typer.Exit(exit_code(cause))
    figure = folder / "result.png"
    if json:
        print(console.dumps({"figure": figure, **content}))
    else:
        show(content, designer.wish.names, folder / "result.sdf")
        console.stdout.print(str(figure), soft_wrap=True)
    announce(folder)
    return figure
