"""The demonstration: molecules steered to a gap, with their values and a figure, in minutes.

Every molecule starts from its own seed and its own number of heavy atoms; the guide steers it, the
evaluator, where it is installed, is asked once at the end.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from ctrlgen.commands import console
from ctrlgen.commands.running import carry_out, place
from ctrlgen.domains.molecules.options import Generation

__all__ = ["run"]

_OPTIONS = Generation(
    properties=["gap=5.5eV"],  # QM9's mean is 6.9 eV, its mean absolute deviation 1.1
    number=8,  # the network computes in eights: further starts of one cost as much as those of all
    tolerance=0.15,  # a guide errs by as much
    restarts=1,
)


def run(out: Path | None = None, *, overwrite: bool = False, json: bool = False) -> Path | None:
    """Steer molecules in a run folder with their files, and show a table.

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
    from ctrlgen.domains.molecules.runs import Designing

    options = replace(_OPTIONS, json=json)
    with place(out, "demo-molecules", options, overwrite=overwrite) as folder:
        plan = Designing(options)
        job = plan.job()
        carry_out(
            plan.lasting(), job, folder, options,
            json=json, command="ctrlgen demo", domain="molecules", title=plan.what,
            about=plan.about(job),
        )  # fmt: skip
    return folder / "molecules.png"
