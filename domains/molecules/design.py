"""Molecules by their properties, from words to RDKit molecules.

    from ctrlgen.domains.molecules.design import design
    designed = design("gap=6.8eV", "mu<=2D", number=16)
    designed.mols, designed.rows
    decorated = design("gap=5eV", scaffold=mol, attach=(2,))

The command line does the same: `Designer` holds what both share, networks, sizes and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ctrlgen import plugins
from ctrlgen.domains.molecules.atom_counts import Sizes
from ctrlgen.domains.molecules.columns import Columns
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.generation import Task, Watch, generate
from ctrlgen.domains.molecules.judges import judge, regressor
from ctrlgen.domains.molecules.lead_optimization import Ball, source_of
from ctrlgen.domains.molecules.molecule_batches import Generated, qm9_of
from ctrlgen.domains.molecules.properties import PROPERTIES, parse_request
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.requirements import Wish, parse_atoms
from ctrlgen.domains.molecules.result_tables import Table, rows_of
from ctrlgen.domains.molecules.scaffolds import Scaffold
from ctrlgen.domains.molecules.scoring import EVALUATOR, GUIDES
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.uncertainty import UncertaintyCost, features_of, head_covariance
from ctrlgen.extras import require
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.errors import concerning
from ctrlgen.runs.shards import records_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from ctrlgen.costs import Cost

__all__ = ["Designed", "Designer", "design"]


@dataclass(repr=False)
class Designed:
    """What a design run gives.

    Attributes:
        result: the molecules, one row each.
        table: their numbers.
        warnings: what speaks against the wish.
    """

    result: Generated
    table: Table
    warnings: list[str]

    def __repr__(self) -> str:
        there = sum(mol is not None for mol in self.mols)
        held = sum(bool(row.get("satisfied (guide)")) for row in self.rows)
        return (
            f"Designed({len(self.rows)} molecules, {there} complete, {held} satisfied by the "
            f"guide, {self.result.network.forward} evaluations of the network)"
        )

    @property
    def mols(self) -> list[Mol | None]:
        """RDKit molecules with all hydrogens, one per molecule asked; None where there is none."""
        return self.table.mols

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is known of each molecule; see `result_tables`."""
        return self.table.rows

    def atoms(self) -> list[Any]:
        """The molecules as `ase.Atoms`; None where there is none.

        Raises:
            MissingExtra: ASE is not installed.
        """
        ase = require("ase", "ase")
        return [
            mol
            and ase.Atoms(
                [atom.GetSymbol() for atom in mol.GetAtoms()], mol.GetConformer().GetPositions()
            )
            for mol in self.mols
        ]


class Designer:
    """Everything that is loaded and checked before the first evaluation.

    Args:
        wish: what is asked.
        prior: a prior of molecules, or its name or card.
        atoms: numbers of atoms as in "18" or "15..20"; see `parse_atoms`.
        guide: card or name of the guide; the embedded one of the prior's alphabet by default.
        evaluator: card or name of the evaluator; the embedded one by default, none where it is not
            installed.
        types: how the guide reads classes: "straight-through" or "soft".
        device: of the networks.
        uncertainty: weight of the cost of how unsure the guide is (`uncertainty`), >= 0.

    Raises:
        ValueError: what is asked cannot be, see `Wish` and `parse_atoms`; or nothing is known of
            how sure the guide is.
        MissingExtra: RDKit is not installed.
    """

    def __init__(
        self,
        wish: Wish,
        prior: str | Prior = "qm9-heavy",
        *,
        atoms: str | None = None,
        guide: str | None = None,
        evaluator: str | None = None,
        types: str = "straight-through",
        device: str = "cpu",
        uncertainty: float = 0.0,
    ) -> None:
        require("rdkit", "molecules")
        with concerning("prior"):
            self.prior = prior if isinstance(prior, Prior) else load(prior, device=device)
        self.name, self.wish, self.types = qm9_of(self.prior), wish, types
        self.sizes, self.warnings = self._sizes(atoms)
        if wish.scaffold is not None:
            self.prior = wish.scaffold.hold(self.prior)
        wants = guide or (GUIDES[self.name] if wish.names else None)
        self.guide = None if wants is None else regressor(wants, device, "guide")
        if self.guide is not None and self.guide.classes != len(alphabet(self.name)):
            raise ValueError(f"guide: {wants!r} is of another alphabet than {self.name!r}")
        if not uncertainty >= 0 or (uncertainty and not wish.names):
            what = "a property that is asked for" if uncertainty >= 0 else "a number >= 0"
            raise ValueError(f"uncertainty: expected {what}, got {uncertainty:g} alone")
        self.uncertainty = uncertainty
        self.covariance = None
        if wants is not None and self.guide is not None:
            self.covariance = head_covariance(wants, needed=uncertainty > 0)
        self.evaluator = None
        if evaluator is not None or EVALUATOR in plugins.cards():
            self.evaluator = judge(evaluator or EVALUATOR, device)
        else:
            self.warnings.append(f"{EVALUATOR} is not installed: no evaluator values")

    def _sizes(self, atoms: str | None) -> tuple[Sizes, list[str]]:
        places = range(2, self.prior.source.shape[0] + 1)
        allowed = [n for n in parse_atoms(atoms, self.name) if n in places]
        return self.wish.sizes(self.name, allowed)

    def __repr__(self) -> str:
        names = ", ".join(self.wish.names) or "no property"
        return f"Designer({self.name!r}, {names}, {len(self.sizes.atoms)} sizes)"

    def columns(self, *, tolerance: float, lead: Mol | None = None, **checks: Any) -> Columns:
        """What is said of its molecules.

        Args:
            tolerance: of the guide's verdict.
            lead: whose likeness every row tells.
            **checks: `xtb`, `posebusters` and `traded`.
        """
        checks = {"covariance": self.covariance, **checks}
        return Columns(self.name, self.wish, self.guide, self.evaluator, tolerance, lead, **checks)

    def task(self) -> Task:
        """Molecules from nothing, their sizes drawn from p(n | c)."""
        return Task(
            cost=lambda rows, counts: self.penalised(
                self.wish.cost(self.guide, self.name, counts, self.types)
            ),
            counts=lambda rows, seeds: self.sizes.draw(self.wish.requests, seeds),
            aim=self._aim if self.wish.aims or self.uncertainty else None,
            scores=tuple(
                (score.cost(self.name), score.low is not None) for score in self.wish.scores
            ),
        )

    def penalised(self, cost: Cost) -> Cost:
        """A cost with that of how unsure the guide is of the properties, where it has a weight."""
        if not self.uncertainty or self.covariance is None or self.guide is None:
            return cost
        columns = [list(PROPERTIES).index(name) for name in self.wish.names]
        features = features_of(self.guide, self.types)  # type: ignore[arg-type]
        return cost + self.uncertainty * UncertaintyCost(features, self.covariance, columns)

    def _aim(self, rows: Tensor, counts: Tensor) -> Cost | None:
        return self.wish.aim(self.guide, self.name, counts)

    def lead_task(self, lead: Mol, radius: float, settings: Settings) -> Task:
        """Molecules from a given one, whose source points stay near its own.

        Args:
            lead: with positions; its size is that of all results.
            radius: of the ball, in units of the typical distance √(2d) of two source points.
            settings: whose solver is used on the way back.

        Raises:
            ValueError: a molecule that the alphabet cannot write, or a radius that is not positive.
        """
        if not radius > 0:
            raise ValueError(f"radius: expected a positive number, got {radius}")
        positions, classes, counts = tensors([lead], self.name)
        if int(counts) not in self.sizes.atoms.tolist() or int(counts) < 2:
            known = self.sizes.atoms.tolist()
            raise ValueError(
                f"lead: expected {known[0]} to {known[-1]} atoms, got {int(counts)} ({self.name})"
            )
        signal = join(positions, classes, len(alphabet(self.name)))
        solver = self.prior.solver(settings.steps)

        def start(rows: Tensor, seeds: Tensor, atoms: Tensor) -> tuple[Tensor, Ball]:
            bound = self.prior.bind(counts=atoms)
            whole = signal.to(self.prior.device).expand(len(rows), -1, -1)
            points = source_of(bound, whole, seeds, solver=solver)
            d = bound.source.degrees_of_freedom(points)
            return points, Ball(points, radius * (2 * d).sqrt())

        return replace(
            self.task(),
            counts=lambda rows, seeds: counts.expand(len(rows)).clone(),
            start=start,
        )

    def run(
        self,
        task: Task,
        seeds: Sequence[int],
        settings: Settings,
        *,
        rank: Callable[[Tensor], Tensor] | None = None,
        watch: Watch | None = None,
    ) -> Designed:
        """Generate molecules and say what they are.

        Args:
            task: of this designer.
            seeds: one per molecule.
            settings: how.
            rank: see `generation.generate`.
            watch: see `generation.generate`.
        """
        result = generate(self.prior, task, seeds, settings, rank=rank, watch=watch)
        rows, none = self.columns(tolerance=settings.tolerance)(result.samples), len(result)
        records = records_of(result, 0, 0.0, rows, [[]] * none, [None] * none)
        table = Table(rows_of(records, seeds, result.starts.tolist()))
        return Designed(result, table, self.warnings)


def design(
    *requests: str,
    number: int = 16,
    prior: str | Prior = "qm9-heavy",
    seeds: Sequence[int] | None = None,
    atoms: str | None = None,
    settings: Settings | None = None,
    wish: Wish | None = None,
    scaffold: Mol | None = None,
    attach: Sequence[int] | None = None,
    **options: Any,
) -> Designed:
    """Molecules with wanted properties.

    Args:
        *requests: e.g. "gap=6.8eV", "gap=6..7eV", "mu>=3D"; units are needed.
        number: of molecules, seeds 0, 1, ...
        prior: a prior of molecules, or its name or card.
        seeds: in place of `number`.
        atoms: numbers of atoms, "18" or "15..20"; drawn from p(n | c) by default.
        settings: how they are steered.
        wish: more than requests; see `Wish`.
        scaffold: atoms that every molecule holds at their places; see `scaffolds.Scaffold`.
        attach: those that give up a hydrogen, counted from 1.
        **options: of `Designer`.
    """
    if attach is not None and scaffold is None:
        raise ValueError("attach: expected a scaffold beside it, got none")
    own: dict[str, Any] = {"requests": tuple(map(parse_request, requests))}
    if scaffold is not None:
        own["scaffold"] = Scaffold(scaffold, None if attach is None else tuple(attach))
    if wish is None:
        wish = Wish(**own)
    else:
        own["requests"] = (*wish.requests, *own["requests"])
        wish = replace(wish, **own)
    designer = Designer(wish, prior, atoms=atoms, **options)
    names = list(range(number)) if seeds is None else list(seeds)
    settings = settings or Settings()
    return designer.run(designer.task(), names, settings)
