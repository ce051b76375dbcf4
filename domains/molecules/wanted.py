"""The options that say what molecules should be like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Wanted", "option"]

WISH = "What is wanted"


def option(panel: str, *names: str, **about: Any) -> Any:
    """An option of a panel of the help; arguments as of `typer.Option`."""
    return typer.Option(*names, rich_help_panel=panel, **about)


class Wanted:
    """Options that say what molecules should be like."""

    Property = Annotated[
        list[str] | None,
        option(
            WISH,
            "--property",
            "-p",
            help="With its unit: gap=6.8eV, gap=6..7eV, gap>=6eV, mu=3D, alpha=90Bohr^3; repeat "
            "for several. See `ctrlgen molecule properties`.",
        ),
    ]
    Weight = Annotated[
        list[str] | None, option(WISH, help="NAME=W: weight of a property, 1 by default.")
    ]
    Maximise = Annotated[
        list[str] | None,
        option(WISH, help="A property to make large, up to what QM9 has; gap=9eV sets that limit."),
    ]
    Minimise = Annotated[list[str] | None, option(WISH, help="A property to make small.")]
    Pareto = Annotated[
        str | None,
        option(
            WISH,
            help="Two or three properties to trade off, each made large, or small after a minus: "
            "gap,-mu. The molecules are steered to as many parts of the front, each up to what QM9 "
            "has; gap=9eV,-mu sets a limit.",
        ),
    ]
    Compare = Annotated[
        bool,
        option(
            WISH, "--compare", help="With --pareto, draw as much as steering costs and tell both."
        ),
    ]
    Formula = Annotated[str | None, option(WISH, help="Exact composition, e.g. C7H10O2.")]
    Element = Annotated[
        list[str] | None, option(WISH, help="Limit on an element: N<=2, O>=1, F=0; repeat.")
    ]
    Fragment = Annotated[
        Path | None,
        option(WISH, help="SDF of a piece that every molecule is to hold; hydrogens are open."),
    ]
    Scaffold = Annotated[
        Path | None,
        option(
            WISH,
            help="SDF of atoms that every molecule holds at their places, in one piece or several "
            "(a linker joins them); the others are made.",
        ),
    ]
    Attach = Annotated[
        str | None,
        option(
            WISH,
            help="Atoms of the scaffold that give up one hydrogen each, as 2 or 1,4: counted from "
            "1 in its file. By default any that has one may.",
        ),
    ]
    Similar = Annotated[Path | None, option(WISH, help="SDF of a molecule to resemble.")]
    Score = Annotated[
        list[str] | None,
        option(
            WISH,
            metavar="NAME>=VALUE|FILE.py:NAME",
            help="Of the finished molecule, without a gradient: qed, logp, tpsa or sa in an "
            "interval, or a function of RDKit molecules, the lower the better. Draws and starts "
            "are chosen by it; repeat for several.",
        ),
    ]
    Resemblance = Annotated[float, option(WISH, min=0, help="Weight of the likeness.")]
    Uncertainty = Annotated[
        float,
        option(
            WISH,
            min=0,
            help="Weight of how unsure the guide is of the properties that are asked for, squared, "
            "in mean absolute deviations: steers to what it knows.",
        ),
    ]
    Far = Annotated[
        bool, option(WISH, "--far", help="Allow targets far outside the data of training.")
    ]
