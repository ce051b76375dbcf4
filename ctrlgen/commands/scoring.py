"""Samples of a prior that a score of the user's steers: what all `sample` commands share.

    --score FILE.py:NAME --method best-of|evolution|renoising|particles|trust-region --calls 200

The score is a black box (`ctrlgen.costs.blackbox`): it is called in processes of its own, and what
it cannot score is ranked last. Every method asks it at most `calls` times for every sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from ctrlgen.commands.run_options import Running, absolute, file_of
from ctrlgen.methods import (
    BestOf,
    EvolutionStrategy,
    Method,
    ParticleResampling,
    RenoisingSearch,
    TrustRegionSearch,
)
from ctrlgen.priors.prior import Prior
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.samplers import Sampler
from ctrlgen.sampling.steps import Ancestral

__all__ = ["STOCHASTIC", "Scored", "Scoring"]

Name = Literal["best-of", "evolution", "renoising", "particles", "trust-region"]
_PANEL = "The score"

STOCHASTIC = ("best-of", "renoising")
"""Methods that keep what they draw, and so may draw by stochastic steps."""


@dataclass(frozen=True)
class Scored(Running):
    """Options of a command whose samples a score may steer."""

    score: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="A function of a batch of samples that returns a number for each, the lower the "
            "better; it needs no gradient. Without it nothing steers.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    method: Annotated[
        str, typer.Option(help=f"How: {', '.join(get_args(Name))}.", rich_help_panel=_PANEL)
    ] = "best-of"
    calls: Annotated[
        int,
        typer.Option(min=8, help="Of the score for each sample, at most.", rich_help_panel=_PANEL),
    ] = 64
    strength: Annotated[
        float,
        typer.Option(
            help="Of particles: a score that is 1/STRENGTH higher is e times less likely.",
            rich_help_panel=_PANEL,
        ),
    ] = 1.0
    scorers: Annotated[
        int, typer.Option(min=1, help="Processes that score.", rich_help_panel=_PANEL)
    ] = 1
    score_timeout: Annotated[
        float,
        typer.Option(
            min=0.01, help="Seconds for one score; then it counts as none.", rich_help_panel=_PANEL
        ),
    ] = 60.0

    @property
    def scoring(self) -> Scoring | None:
        """What they say of the score; None without one.

        Raises:
            ValueError: for a method that is not among them.
        """
        if self.score is None:
            return None
        return Scoring(
            absolute(self.score), self.method, self.calls, self.strength, self.scorers,
            self.score_timeout,
        )  # fmt: skip


@dataclass(frozen=True)
class Scoring:
    """How a score steers.

    Attributes:
        reference: FILE.py:NAME, or what else a domain knows.
        name: of the method.
        calls: of the score for each sample, at most; at least 8.
        strength: of particles.
        scorers: processes.
        timeout: seconds for one score.

    Raises:
        ValueError: for another method.
    """

    reference: str
    name: str = "best-of"
    calls: int = 64
    strength: float = 1.0
    scorers: int = 1
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"method: expected {', '.join(get_args(Name))}, got {self.name!r}")

    @property
    def code(self) -> list[Path]:
        """The user's file, which a run executes."""
        file = file_of(self.reference)
        return [] if file is None else [file]

    def box(self) -> dict[str, Any]:
        """Arguments of a `ctrlgen.costs.BlackBoxCost`."""
        return {"score": self.reference, "workers": self.scorers, "timeout": self.timeout}

    def method(self, prior: Prior, steps: int, churn: float | None = None) -> Method:
        """The method.

        Args:
            prior: to be steered.
            steps: midpoint steps of a solve, or stochastic ones.
            churn: λ of stochastic steps, for those of `STOCHASTIC`; None for the ODE.
        """
        solver, device = prior.solver(steps), prior.device
        drawn = solver if churn is None else Sampler(steps, Ancestral(churn))
        if self.name == "best-of":
            return BestOf(n=self.calls, solver=drawn, device=device)
        if self.name == "evolution":
            population = min(16, max(4, self.calls // 8))
            draws = max(1, self.calls // 3)
            return EvolutionStrategy(
                draws=draws, population=population, solver=solver, device=device, sphere=True,
                generations=max(1, (self.calls - draws) // population),
            )  # fmt: skip
        if self.name == "renoising":
            draws = max(4, self.calls // 3)
            children = min(8, self.calls - draws)
            return RenoisingSearch(
                draws=draws, parents=min(8, draws), children=children, solver=drawn,
                generations=(self.calls - draws) // children, device=device,
            )  # fmt: skip
        if self.name == "trust-region":
            draws = max(4, self.calls // 3)
            batch = min(4, self.calls - draws)
            return TrustRegionSearch(
                draws=draws, batch=batch, rounds=(self.calls - draws) // batch, solver=solver,
                device=device,
            )  # fmt: skip
        population = max(4, math.isqrt(self.calls))
        rounds = self.calls // population
        looks = min(rounds // 2, 2 * steps // 2)
        return ParticleResampling(
            population=population, grid=Uniform(max(4, 2 * steps)), looks=looks, begin=0.4,
            moves=rounds - 1 - looks, depth=max(1, steps // 2), strength=self.strength,
            device=device,
        )  # fmt: skip
