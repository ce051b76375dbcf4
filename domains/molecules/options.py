"""The options that the commands for molecules share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctrlgen.commands.running import Running
from ctrlgen.commands.scoring import Scored
from ctrlgen.domains.molecules.inputs import wish_of

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.fronts import Front
    from ctrlgen.domains.molecules.requirements import Wish

__all__ = ["Generation", "Run", "Sample", "Score", "Search", "Wanted"]

WISH, RUN, OUTPUT = "What is wanted", "The run", "Output"


def _option(panel: str, *names: str, **about: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **about)


class Wanted:
    """Options that say what molecules should be like."""

    Property = Annotated[
        list[str] | None,
        _option(
            WISH,
            "--property",
            "-p",
            help="With its unit: gap=6.8eV, gap=6..7eV, gap>=6eV, mu=3D, alpha=90Bohr^3; repeat "
            "for several. See `ctrlgen molecule properties`.",
        ),
    ]
    Weight = Annotated[
        list[str] | None, _option(WISH, help="NAME=W: weight of a property, 1 by default.")
    ]
    Maximise = Annotated[
        list[str] | None,
        _option(
            WISH, help="A property to make large, up to what QM9 has; gap=9eV sets that limit."
        ),
    ]
    Minimise = Annotated[list[str] | None, _option(WISH, help="A property to make small.")]
    Pareto = Annotated[
        str | None,
        _option(
            WISH,
            help="Two or three properties to trade off, each made large, or small after a minus: "
            "gap,-mu. The molecules are steered to as many parts of the front, each up to what QM9 "
            "has; gap=9eV,-mu sets a limit.",
        ),
    ]
    Compare = Annotated[
        bool,
        _option(
            WISH, "--compare", help="With --pareto, draw as much as steering costs and tell both."
        ),
    ]
    Formula = Annotated[str | None, _option(WISH, help="Exact composition, e.g. C7H10O2.")]
    Element = Annotated[
        list[str] | None, _option(WISH, help="Limit on an element: N<=2, O>=1, F=0; repeat.")
    ]
    Fragment = Annotated[
        Path | None,
        _option(WISH, help="SDF of a piece that every molecule is to hold; hydrogens are open."),
    ]
    Scaffold = Annotated[
        Path | None,
        _option(
            WISH,
            help="SDF of atoms that every molecule holds at their places, in one piece or several "
            "(a linker joins them); the others are made.",
        ),
    ]
    Attach = Annotated[
        str | None,
        _option(
            WISH,
            help="Atoms of the scaffold that give up one hydrogen each, as 2 or 1,4: counted from "
            "1 in its file. By default any that has one may.",
        ),
    ]
    Similar = Annotated[Path | None, _option(WISH, help="SDF of a molecule to resemble.")]
    Resemblance = Annotated[float, _option(WISH, min=0, help="Weight of the likeness.")]
    Far = Annotated[
        bool, _option(WISH, "--far", help="Allow targets far outside the data of training.")
    ]


class Run:
    """Options of the run and its output."""

    Prior = Annotated[
        str,
        _option(
            RUN,
            help="qm9-heavy (heavy atoms, then hydrogens; quick) or qm9 (all atoms), or a card.",
        ),
    ]
    Guide = Annotated[
        str | None, _option(RUN, help="Property network that steers; by default the prior's.")
    ]
    Evaluator = Annotated[
        str | None, _option(RUN, help="Property network that judges; qm9-evaluator by default.")
    ]
    Number = Annotated[int | None, _option(RUN, "--number", "-n", min=1, help="How many.")]
    Seeds = Annotated[str | None, _option(RUN, help="Their seeds instead, e.g. 3,5,8.")]
    Steps = Annotated[int, _option(RUN, min=1, help="Midpoint steps of the flow.")]
    Evaluations = Annotated[
        int, _option(RUN, min=1, help="Solves forward and backward per start, for L-BFGS.")
    ]
    Draws = Annotated[
        int,
        _option(
            RUN,
            min=1,
            help="Source points screened per start; the best is steered.",
        ),
    ]
    Valence = Annotated[
        float,
        _option(RUN, min=0, help="Weight of unmet valences in the cost, which keep it whole."),
    ]
    Tolerance = Annotated[
        float,
        _option(RUN, help="Stop a molecule at this error, in mean absolute deviations of QM9."),
    ]
    Normalise = Annotated[
        str,
        _option(
            RUN, help="Of the source: none (a penalty on its radius), isotropic or feature (paper)."
        ),
    ]
    Restarts = Annotated[
        int, _option(RUN, min=0, help="Further starts of molecules that miss or fall apart.")
    ]
    Rank = Annotated[
        str | None,
        _option(
            RUN,
            help="FILE.py:NAME, a function of a list of RDKit molecules (None among them) that "
            "returns one number each; of all starts the lowest is kept.",
        ),
    ]
    Device = Annotated[str, _option(RUN, help="cpu, cuda, ...")]
    PoseBusters = Annotated[
        bool,
        _option(
            OUTPUT, "--posebusters", help="PoseBusters' checks as well, a third of a second each."
        ),
    ]
    Out = Annotated[
        Path | None,
        _option(
            OUTPUT,
            "--out",
            "-o",
            help="FILE.sdf; .xyz, .csv, .json and .png are written beside it, and the run itself "
            "into FILE.run. Or a folder for all of them, by default a new one under runs/.",
        ),
    ]
    Overwrite = Annotated[bool, _option(OUTPUT, "--overwrite", help="Replace earlier results.")]
    Json = Annotated[bool, _option(OUTPUT, "--json", help="Print the numbers as JSON.")]


@dataclass(frozen=True)
class Search(Running):
    """The options that the commands which search for molecules share; each field is one."""

    properties: Wanted.Property = None
    weight: Wanted.Weight = None
    maximise: Wanted.Maximise = None
    minimise: Wanted.Minimise = None
    formula: Wanted.Formula = None
    element: Wanted.Element = None
    fragment: Wanted.Fragment = None
    similar: Wanted.Similar = None
    resemblance: Wanted.Resemblance = 1.0
    far: Wanted.Far = False
    number: Run.Number = None
    seeds: Run.Seeds = None
    prior: Run.Prior = "qm9-heavy"
    guide: Run.Guide = None
    evaluator: Run.Evaluator = None
    steps: Run.Steps = 10
    evaluations: Run.Evaluations = 12
    tolerance: Run.Tolerance = 0.05
    valence: Run.Valence = 0.3
    restarts: Run.Restarts = 3
    rank: Run.Rank = None
    posebusters: Run.PoseBusters = False
    device: Run.Device = "cpu"
    out: Run.Out = None
    overwrite: Run.Overwrite = False
    json: Run.Json = False

    @property
    def held(self) -> tuple[Path | None, str | None]:
        """File of the scaffold, and its atoms that give up a hydrogen."""
        return None, None

    @property
    def wish(self) -> Wish:
        """What is wanted; raises ValueError where it cannot be read or contradicts itself."""
        return wish_of(
            self.properties,
            self.weight,
            self.maximise,
            self.minimise,
            self.formula,
            self.element,
            self.fragment,
            self.similar,
            self.resemblance,
            self.far,
            *self.held,
        )


@dataclass(frozen=True)
class Generation(Search):
    """The options of a search that begins with noise."""

    scaffold: Wanted.Scaffold = None
    attach: Wanted.Attach = None
    draws: Run.Draws = 32
    normalise: Run.Normalise = "none"
    pareto: Wanted.Pareto = None
    compare: Wanted.Compare = False

    @property
    def front(self) -> Front | None:
        """What is traded off; raises ValueError where it cannot be read."""
        from ctrlgen.domains.molecules.fronts import Front

        return None if self.pareto is None else Front.of(self.pareto)

    @property
    def wish(self) -> Wish:
        """What is wanted, the properties of a front as extremes; raises ValueError, as above."""
        if self.pareto is None:
            if self.compare:
                raise ValueError("compare: it is of --pareto, which is not given")
            return super().wish
        from ctrlgen.domains.molecules.fronts import check_alone, extremes

        if self.rank is not None:
            raise ValueError("rank: a front has its own order of starts; give --pareto or --rank")
        words = (self.properties, self.maximise, self.minimise, self.weight)
        check_alone(self.pareto, [word for group in words for word in group or ()])
        large, small = extremes(self.pareto)
        largest, smallest = [*(self.maximise or ()), *large], [*(self.minimise or ()), *small]
        return replace(self, pareto=None, compare=False, maximise=largest, minimise=smallest).wish

    @property
    def held(self) -> tuple[Path | None, str | None]:
        return self.scaffold, self.attach


@dataclass(frozen=True)
class Sample(Scored):
    """The options of `ctrlgen molecule sample`."""

    prior: Run.Prior = "qm9-heavy"
    number: Run.Number = None
    seeds: Run.Seeds = None
    atoms: Annotated[str | None, _option(RUN, help="Atoms of the prior, N or LOW..HIGH.")] = None
    steps: Run.Steps = 50
    evaluator: Run.Evaluator = None
    posebusters: Run.PoseBusters = False
    device: Run.Device = "cpu"
    out: Run.Out = None
    overwrite: Run.Overwrite = False
    json: Run.Json = False


@dataclass(frozen=True)
class Score(Running):
    """The options of `ctrlgen molecule score`."""

    evaluator: Run.Evaluator = None
    embed: Annotated[
        bool, _option(RUN, "--embed", help="Positions by ETKDG for SMILES and flat drawings.")
    ] = False
    strict: Annotated[
        bool, _option(RUN, "--strict", help="End at the first record that cannot be scored.")
    ] = False
    xtb: Annotated[bool, _option(OUTPUT, "--xtb", help="GFN2-xTB dipoles as well.")] = False
    posebusters: Run.PoseBusters = False
    out: Run.Out = None
    overwrite: Run.Overwrite = False
    json: Run.Json = False
