"""The options that the commands for molecules share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ctrlgen.commands.run_options import absolute
from ctrlgen.commands.running import Running
from ctrlgen.commands.scoring import Scored
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.wanted import Wanted, option

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.fronts import Front
    from ctrlgen.domains.molecules.requirements import Wish

__all__ = ["Generation", "Run", "Sample", "Score", "Search"]

RUN, OUTPUT = "The run", "Output"


class Run:
    """Options of the run and its output."""

    Prior = Annotated[
        str,
        option(
            RUN,
            help="qm9-heavy (heavy atoms, then hydrogens; quick) or qm9 (all atoms), or a card.",
        ),
    ]
    Guide = Annotated[
        str | None, option(RUN, help="Property network that steers; by default the prior's.")
    ]
    Evaluator = Annotated[
        str | None, option(RUN, help="Property network that judges; qm9-evaluator by default.")
    ]
    Number = Annotated[int | None, option(RUN, "--number", "-n", min=1, help="How many.")]
    Seeds = Annotated[str | None, option(RUN, help="Their seeds instead, e.g. 3,5,8.")]
    Steps = Annotated[int, option(RUN, min=1, help="Midpoint steps of the flow.")]
    Evaluations = Annotated[
        int,
        option(
            RUN,
            min=0,
            help="Solves forward and backward per start, for L-BFGS; with 0 generate keeps what "
            "its search finds.",
        ),
    ]
    Draws = Annotated[
        int,
        option(
            RUN,
            min=1,
            help="Source points screened per start; the best is steered.",
        ),
    ]
    Search = Annotated[
        str,
        option(
            RUN,
            help="What comes before L-BFGS: best-of, the draws alone; or renoising, for rare "
            "targets: the best eight draws are put back to noise half-way and drawn again, and the "
            "best of these, and so on, until one is whole and at its target.",
        ),
    ]
    Generations = Annotated[
        int,
        option(
            RUN,
            min=1,
            help="Of renoising, at most: eight molecules each, which take as long as three draws.",
        ),
    ]
    Valence = Annotated[
        float,
        option(RUN, min=0, help="Weight of unmet valences in the cost, which keep it whole."),
    ]
    Tolerance = Annotated[
        float,
        option(RUN, help="Stop a molecule at this error, in mean absolute deviations of QM9."),
    ]
    Normalise = Annotated[
        str,
        option(
            RUN, help="Of the source: none (a penalty on its radius), isotropic or feature (paper)."
        ),
    ]
    Restarts = Annotated[
        int, option(RUN, min=0, help="Further starts of molecules that miss or fall apart.")
    ]
    Rank = Annotated[
        str | None,
        option(
            RUN,
            help="FILE.py:NAME, a function of a list of RDKit molecules (None among them) that "
            "returns one number each; of all starts the lowest is kept.",
        ),
    ]
    Device = Annotated[str, option(RUN, help="cpu, cuda, ...")]
    PoseBusters = Annotated[
        bool,
        option(
            OUTPUT, "--posebusters", help="PoseBusters' checks as well, a third of a second each."
        ),
    ]
    Out = Annotated[
        Path | None,
        option(
            OUTPUT,
            "--out",
            "-o",
            help="FILE.sdf; .xyz, .csv, .json and .png are written beside it, and the run itself "
            "into FILE.run. Or a folder for all of them, by default a new one under runs/.",
        ),
    ]
    Overwrite = Annotated[bool, option(OUTPUT, "--overwrite", help="Replace earlier results.")]
    Json = Annotated[bool, option(OUTPUT, "--json", help="Print the numbers as JSON.")]


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
    uncertainty: Wanted.Uncertainty = 0.0
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
    def held(self) -> tuple[Path | None, str | None, list[str] | None]:
        """File of the scaffold, its atoms that give up a hydrogen, and scores."""
        return None, None, None

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
    score: Wanted.Score = None
    draws: Run.Draws = 32
    search: Run.Search = "best-of"
    generations: Run.Generations = 20
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

        if self.search != "best-of":
            raise ValueError("search: a front has one pool of draws for all; leave --search out")
        if not self.evaluations:
            raise ValueError("evaluations: a front is steered, expected at least 1, got 0")
        if self.score:
            raise ValueError("score: a front has its own order of starts; give --pareto or --score")
        if self.rank is not None:
            raise ValueError("rank: a front has its own order of starts; give --pareto or --rank")
        words = (self.properties, self.maximise, self.minimise, self.weight)
        check_alone(self.pareto, [word for group in words for word in group or ()])
        large, small = extremes(self.pareto)
        largest, smallest = [*(self.maximise or ()), *large], [*(self.minimise or ()), *small]
        return replace(self, pareto=None, compare=False, maximise=largest, minimise=smallest).wish

    @property
    def held(self) -> tuple[Path | None, str | None, list[str] | None]:
        return self.scaffold, self.attach, absolute(self.score)


@dataclass(frozen=True)
class Sample(Scored):
    """The options of `ctrlgen molecule sample`."""

    prior: Run.Prior = "qm9-heavy"
    number: Run.Number = None
    seeds: Run.Seeds = None
    atoms: Annotated[str | None, option(RUN, help="Atoms of the prior, N or LOW..HIGH.")] = None
    steps: Run.Steps = 50
    churn: Annotated[
        float | None,
        option(
            RUN,
            min=0.0,
            help="Rate at which noise is drawn anew in steps of one evaluation each: more stable "
            "molecules. 1 is DDPM's, 16 is taken; 0 takes midpoint steps of the ODE.",
        ),
    ] = None
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
        bool, option(RUN, "--embed", help="Positions by ETKDG for SMILES and flat drawings.")
    ] = False
    strict: Annotated[
        bool, option(RUN, "--strict", help="End at the first record that cannot be scored.")
    ] = False
    xtb: Annotated[bool, option(OUTPUT, "--xtb", help="GFN2-xTB dipoles as well.")] = False
    posebusters: Run.PoseBusters = False
    out: Run.Out = None
    overwrite: Run.Overwrite = False
    json: Run.Json = False
