"""How molecules are steered: numbers of steps, starts and draws, and the D-Flow that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ctrlgen.domains.molecules.lead_optimization import Ball, Given
from ctrlgen.methods import DFlow, RenoisingSearch
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi
from ctrlgen.optimizers import LBFGS
from ctrlgen.optimizers.base import Projection
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers.base import Gradient

__all__ = ["PARENTS", "Normalise", "SearchName", "Settings"]

Normalise = Literal["none", "isotropic", "feature"]
SearchName = Literal["best-of", "renoising"]

PARENTS = RenoisingSearch.parents
"""Draws that renoising breeds, of which it has as many at least."""

_FIRST_STEP = 1.2  # a tenth of the length of a source point of QM9
_DIRECT = 8 * 29**2  # pairs of atoms in a batch up to which all states are kept


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How molecules are steered.

    Attributes:
        steps: midpoint steps of the flow on the prior's grid, two evaluations each.
        iterations: of L-BFGS, per start.
        evaluations: of the objective, per start; 0 to keep what the search finds, None for no
            limit beside `iterations`.
        tolerance: error at which a molecule has its target, in mean absolute deviations, > 0: it
            stops when its cost is at most the square.
        normalise: "none", "isotropic" or "feature"; see `generation`.
        chi: λ of the radius penalty where nothing is normalised, >= 0.
        valence: weight of the cost of valences that are not met, >= 0.
        draws: source points of which a start is the best, 1 for none to choose from; they are
            tried in eights, until one is whole and at its target.
        search: "best-of" these, or "renoising", which breeds the best eight of them; see `elites`.
        generations: of renoising, at most.
        restarts: further starts of molecules that are not satisfied.
        batch: molecules at a time; it changes nothing but memory and speed for `qm9-heavy`. With
            all atoms rounding depends on the largest molecule of a batch
            (`molecule_batches.fitted`), and a long search may then end elsewhere.

    Raises:
        ValueError: a number out of its range, or an unknown normalisation.
    """

    steps: int = 10
    iterations: int = 25
    evaluations: int | None = 12
    tolerance: float = 0.05
    normalise: Normalise = "none"
    chi: float = 0.01
    valence: float = 0.3
    draws: int = 32
    search: SearchName = "best-of"
    generations: int = 20
    restarts: int = 3
    batch: int = 32

    def __post_init__(self) -> None:
        least_of = {
            "steps": 1, "iterations": 0, "draws": 1, "generations": 1, "restarts": 0, "batch": 1,
        }  # fmt: skip
        for name, least in least_of.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
        if self.evaluations is not None and self.evaluations < 0:
            raise ValueError(f"evaluations: expected at least 0, got {self.evaluations}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: expected a positive number, got {self.tolerance}")
        for name in ("chi", "valence"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        for name, known in (("normalise", Normalise), ("search", SearchName)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name}: expected one of {get_args(known)}, got {value!r}")
        if self.search == "renoising" and self.draws < PARENTS:
            raise ValueError(
                f"draws: expected at least the {PARENTS} that renoising breeds, got {self.draws}"
            )

    @property
    def worth(self) -> int:
        """Draws that cost as many passes of the network, either way, as one start of L-BFGS may."""
        return 2 * (self.iterations if self.evaluations is None else self.evaluations)

    @property
    def steered(self) -> bool:
        """Whether L-BFGS follows the search."""
        return self.evaluations != 0

    def method(
        self, prior: Prior, mask: Tensor, *, start: Tensor | None = None, ball: Ball | None = None
    ) -> DFlow:
        """D-Flow on molecules of a mask.

        Args:
            prior: on whose grid the steps lie.
            mask: atoms that exist, bool, shape (B, N).
            start: source points to begin with, shape (B, N, F); draws by default.
            ball: where source points stay, in place of a normalisation.
        """
        projection: Projection | None = ball
        if ball is None and self.normalise != "none":
            projection = Normalize(mask, isotropic=self.normalise == "isotropic")
        gradient: Gradient = "direct" if mask.numel() * mask.shape[1] <= _DIRECT else "checkpoint"
        changes = {} if start is None else {"initializer": Given(start)}
        return DFlow(
            solver=prior.solver(self.steps, gradient),
            optimizer=LBFGS(
                max_iterations=self.iterations,
                max_evaluations=self.evaluations,
                history=10,
                first_step=_FIRST_STEP,
                # Where a class flips the cost jumps, and no long search gets across.
                max_line_search=10,
                restart_every=None if projection is None else 5,
            ),
            regularizer=Chi(self.chi) if projection is None and self.chi else None,
            target=self.tolerance**2,
            projection=projection,
            **changes,  # type: ignore[arg-type]
        )
