r"""Priors: flow + source + codec + bound conditions.

    x = decode(Φ(x_0)),   x_0 ~ source,   Φ: the flow's ODE from t = 0 to 1.

On disk a prior is a card beside its weights (`ctrlgen.priors.cards`, `ctrlgen.priors.storage`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from ctrlgen.priors.acceleration import SIZES, Compiled, Graphed, Half
from ctrlgen.priors.cards import Card, load_weights
from ctrlgen.priors.codecs import Codec, Identity
from ctrlgen.priors.conditions import BoundVelocity, condition
from ctrlgen.priors.flows import Evaluations, Flow, Prediction
from ctrlgen.priors.paths import Path
from ctrlgen.priors.sources import Source
from ctrlgen.priors.storage import available, load, save
from ctrlgen.rows.batching import PerSample, rows_of
from ctrlgen.rows.checks import check_kind, check_place
from ctrlgen.rows.constants import follow
from ctrlgen.rows.counts import Meter
from ctrlgen.rows.errors import short
from ctrlgen.rows.seeds import Seeds, as_seeds, warn_of_twins
from ctrlgen.sampling.grids import Grid, Uniform
from ctrlgen.sampling.levels import positions
from ctrlgen.solvers import Gradient, Midpoint, Solver

__all__ = ["Card", "Prior", "available", "load", "load_weights"]


class Prior(PerSample):
    """A pretrained generative model as a method sees it.

    Args:
        flow: the velocity of states.
        source: the law of x_0.
        codec: between states and signals.
        conditions: conditions of the network, bound; tensors with one row per sample.
        card: where it comes from.
        grid: where the steps of a solver lie unless the user says otherwise, on the flow's clock;
            equal ones by default. Its own number of steps counts for nothing.

    Raises:
        ValueError: if conditions disagree on the number of samples, or the grid does not go from
            0 to 1 in as many steps as it is asked for.
    """

    per_sample = ("conditions", "source", "codec")

    def __init__(
        self,
        flow: Flow,
        source: Source,
        codec: Codec | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        card: Card | None = None,
        grid: Grid | None = None,
    ) -> None:
        check_kind(Flow, flow=flow)
        check_kind(Source, source=source)
        check_kind(Codec, True, codec=codec)
        check_kind(Mapping, True, conditions=conditions)
        check_kind(Card, True, card=card)
        check_kind(Grid, True, grid=grid)
        self.flow, self.source, self.codec = flow, source, codec or Identity()
        self.conditions = dict(conditions or {})
        self.card = card
        self.grid = Uniform() if grid is None else grid
        if grid is not None:
            positions(grid, 2, flow.path)
        rows_of(self.conditions)  # raises where they disagree

    def bind(self, **conditions: Tensor | list[int]) -> Prior:
        """The same prior under conditions, one row per sample, e.g. `label=torch.tensor([3, 8])`.

        Raises:
            UnknownName: for a condition that the card does not list.
            ValueError: for a label out of range, or conditions of different batch sizes.
        """
        bound = dict(self.conditions)
        for name, value in conditions.items():
            bound[name] = condition(name, value, self.card)
        rows_of(bound)  # raises where they disagree
        clone = copy.copy(self)
        clone.conditions, clone.source = bound, self.source.given(bound)
        clone.codec = self.codec.given(bound)
        return clone

    def on(self, path: Path | None) -> Prior:
        """The same prior read on another path, counting in the same place; itself for None.

        Its grid is that of equal steps: one for the clock of the training suits no other.
        """
        if path is None:
            return self
        clone = copy.copy(self)
        clone.flow, clone.grid = self.flow.on(path), Uniform()
        return clone

    def metered(self, rows: Tensor) -> tuple[Prior, Meter]:
        """The prior as one run reads it, and the meter of that run; see `Flow.metered`."""
        clone = copy.copy(self)
        clone.flow, meter = self.flow.metered(rows)
        return clone, meter

    def take(self, index: Tensor) -> Prior:
        """The prior of the samples `index`, shape (b,): of their conditions, source and codec."""
        taken = super().take(index)
        taken.flow = self.flow.take(index)
        return taken

    def solver(
        self, steps: int, gradient: Gradient = "direct", grid: Grid | None = None
    ) -> Midpoint:
        """The midpoint rule with `steps` steps, two evaluations each.

        Args:
            steps: at least 1.
            gradient: "direct", "checkpoint" or "adjoint".
            grid: where the steps lie; the prior's grid by default.
        """
        grid = grid or self.grid
        if type(grid) is Uniform:
            return Midpoint(steps, gradient)
        return Midpoint(None, gradient, positions(grid, steps, self.flow.path))

    def compiled(self, *, dynamic: bool | None = True, mode: str | None = None) -> Prior:
        """The prior with its network through torch.compile: the same to rounding, sooner.

        The first evaluation compiles, for up to minutes; a C++ compiler is needed. First
        derivatives only; see `ctrlgen.priors.acceleration.Compiled` for the arguments.
        """
        return self._through(Compiled(self._module(), dynamic, mode))

    def half(self, dtype: str = "bfloat16") -> Prior:
        """The prior with a copy of its network in half precision; states stay float32.

        Args:
            dtype: "bfloat16" or "float16".
        """
        return self._through(Half(self._module(), dtype))

    def graphed(self, sizes: Sequence[int] = SIZES) -> Prior:
        """The prior with its network on batches of a few sizes, on CUDA replayed as graphs.

        Worth it where the launches of kernels take longer than the kernels: small batches and
        networks. A gradient evaluates once more; see `ctrlgen.priors.acceleration.Graphed`.

        Args:
            sizes: rows of the batches; others are padded, larger ones cut.
        """
        return self._through(Graphed(self._module(), sizes))

    def _module(self) -> torch.nn.Module:
        network: Any = self.flow.network
        return network

    def _through(self, network: torch.nn.Module) -> Prior:
        """The prior by another form of its network, counting in a place of its own."""
        clone = copy.copy(self)
        clone.flow = copy.copy(self.flow)
        clone.flow.network, clone.flow.evaluations, clone.flow.meter = network, Evaluations(), None
        return clone

    def predict(self, x: Tensor, t: Tensor | float) -> Prediction:
        """All the flow knows of states x (B, *) under the bound conditions; one evaluation."""
        held = self.conditions.items()
        conditions = {name: follow(value, x, value.dtype) for name, value in held}
        return self.flow.predict(x, t, **conditions)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """u_t(x) of states x (B, *) under the bound conditions; one network evaluation."""
        return self.predict(x, t).velocity

    def generate(self, x0: Tensor, solver: Solver) -> Tensor:
        """Signals of source points x_0 (B, *shape), differentiable in x_0."""
        return self.codec.decode(solver(BoundVelocity(self), x0))

    def sample(
        self,
        seeds: Seeds,
        solver: Solver | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Signals drawn from the prior, one per seed, detached.

        Args:
            seeds: one per sample.
            solver: 50 midpoint steps on the prior's grid by default.
            dtype: of the computation.
            device: of the computation; the network's by default.
        """
        if solver is not None and (not callable(solver) or isinstance(solver, type)):
            raise TypeError(f"solver: expected a Solver, got {short(solver)}")
        x0 = self.start(seeds, dtype=dtype, device=device)
        with torch.no_grad():
            return self.generate(x0, solver or self.solver(50))

    def start(
        self,
        seeds: Seeds,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Source points x_0, one per seed, shape (B, *shape), checked against the conditions.

        Raises:
            ValueError: if conditions, source or codec hold data of another number of samples, or
                the network takes another dtype or lives elsewhere.
        """
        rows = as_seeds(seeds)
        self.check_rows(len(rows), "seeds")
        warn_of_twins(rows)
        check_place(self._weight(), dtype, device)
        return self.source.sample(rows, dtype=dtype, device=device or self.device)

    def check_rows(self, count: int, name: str) -> None:
        """Raise ValueError where the prior holds data of another number of samples than `count`.

        Args:
            count: number of samples.
            name: of the argument that brings so many, for the message.
        """
        for part in self.per_sample:
            held = rows_of(getattr(self, part))
            if held is not None and held != count:
                raise ValueError(f"{name}: expected {held}, as many as rows in {part}, got {count}")

    def encode(self, x: Tensor, solver: Solver) -> Tensor:
        """The source points of signals x: encode, then solve the flow back to t = 0."""
        return solver.invert(BoundVelocity(self), self.codec.encode(x))

    @property
    def device(self) -> torch.device:
        """Where the network lives; the CPU for one without parameters."""
        weight = self._weight()
        return weight.device if weight is not None else torch.device("cpu")

    def _weight(self) -> Tensor | None:
        """The first parameter of the network, if it has any."""
        parameters = getattr(self.flow.network, "parameters", None)
        return next(iter(parameters()), None) if parameters else None

    def to(self, *args: Any, **kwargs: Any) -> Prior:
        """A copy on another device or dtype; its network moves in place."""
        moved = super().to(*args, **kwargs)
        moved.flow = self.flow.to(*args, **kwargs)
        return moved

    def save(
        self,
        folder: FilePath | str,
        name: str,
        *,
        factory: str | None = None,
        config: dict[str, Any] | None = None,
        overwrite: bool = False,
        **card: Any,
    ) -> FilePath:
        """Write the prior as a card and weights; `ctrlgen.load(path)` reads it back.

        A prior of `from_diffusers` or `from_latent` is written as a card alone, which names the
        model's folder or its id and the sha256 of what it holds.

        Args:
            folder: where; made if missing.
            name: of the prior and its files; a plain name.
            factory: "module:function" that builds the network from `config`; that of the prior's
                own card by default.
            config: keyword arguments of the factory, JSON-able; those of the prior's card by
                default.
            overwrite: replace a card and weights of this name.
            **card: further fields of the `Card`.

        Returns:
            The card's file. Where the factory is your own, `load` asks for `trust`.

        Raises:
            CardError: if the network is not a module, what is written would not rebuild the
                prior, or the files are there already; nothing is written then.
        """
        return save(self, folder, name, factory=factory, config=config, overwrite=overwrite, **card)

    def __repr__(self) -> str:
        name = self.card.name if self.card else "unnamed"
        bound = ", ".join(self.conditions) or "none"
        return f"Prior({name}: {self.flow}, {self.source}, conditions bound: {bound})"
