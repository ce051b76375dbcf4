"""Scaffolds: what is held in either alphabet, that it is held, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_molecules import Cards, ethanol

from ctrlgen.domains.molecules.design import design
from ctrlgen.domains.molecules.elements import HEAVY
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.scaffold_pins import ScaffoldAtoms
from ctrlgen.domains.molecules.scaffolds import Scaffold
from ctrlgen.domains.molecules.sdf import read_sdf, write_sdf
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import split

if TYPE_CHECKING:
    from rdkit.Chem import Mol

rdkit = pytest.importorskip("rdkit")

Molecule = Callable[[str], "Mol"]


def classes(scaffold: Scaffold) -> list[list[tuple[str, int]]]:
    allowed = scaffold.places("qm9-heavy").allowed
    return [[HEAVY[k] for k in row.nonzero().flatten().tolist()] for row in allowed]


def test_an_atom_that_is_named_gives_up_a_hydrogen(molecule: Molecule) -> None:
    pyrrole = molecule("c1cc[nH]c1")  # heavy atoms 1 to 5, the nitrogen 4; then their hydrogens
    named = classes(Scaffold(pyrrole, (4, 1)))
    assert named == [[("C", 0)], [("C", 1)], [("C", 1)], [("N", 0)], [("C", 1)]]
    free = classes(Scaffold(pyrrole))
    assert free[0] == [("C", 0), ("C", 1)] and free[3] == [("N", 0), ("N", 1)]
    assert classes(Scaffold(molecule("CC"), (1, 1, 2))) == [[("C", 1)], [("C", 2)]]
    # the hydrogen itself says its atom, and where the new one comes
    hydrogen = Scaffold(pyrrole, (6,))
    assert classes(hydrogen) == classes(Scaffold(pyrrole, (1,)))
    sites = hydrogen.places("qm9-heavy").sites
    place = torch.from_numpy(pyrrole.GetConformer().GetPositions())
    torch.testing.assert_close(
        sites[0, 1] * (place[5] - place[0]).norm(), place[5] - place[0], rtol=1e-9, atol=1e-9
    )


def test_with_all_atoms_the_other_hydrogens_are_held(molecule: Molecule) -> None:
    ethane = molecule("CC")
    assert len(Scaffold(ethane, (1,)).places("qm9").positions) == 2 + 5
    assert len(Scaffold(ethane).places("qm9").positions) == 2
    gone = Scaffold(ethane, (4,)).places("qm9")
    own = torch.from_numpy(ethane.GetConformer().GetPositions())[[0, 1, 2, 4, 5, 6, 7]]
    torch.testing.assert_close(gone.positions, own - own.mean(0), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("card", "attach", "held"), [("prior", (2,), 3), ("whole", None, 3)])
def test_steered_molecules_hold_it_to_rounding(
    cards: Cards, tmp_path: Path, card: str, attach: tuple[int, ...] | None, held: int
) -> None:
    (entry,) = read_sdf(ethanol(tmp_path))
    made = design(
        number=3, prior=str(getattr(cards, card)), atoms="4..6", evaluator=str(cards.evaluator),
        settings=Settings(steps=2, evaluations=2, iterations=2, restarts=0, draws=2, batch=2),
        scaffold=entry.mol, attach=attach,
    )  # fmt: skip
    found = made.result
    assert bool((found.atoms > held).all()) and bool((found.backward_passes > 0).all())
    parts = split(found.samples)
    wanted = entry.mol.GetConformer().GetPositions()[:held]
    given, own = torch.from_numpy(wanted), parts.positions[:, :held].double()
    gap = (own - own.mean(1, keepdim=True)) - (given - given.mean(0))
    assert float(gap.abs().max()) < 2e-6
    kinds = [HEAVY.index(kind) for kind in (("C", 3), ("C", 1), ("O", 1))]
    wanted_classes = kinds if attach else [1, 1, 3]
    assert parts.hard[:, :held].tolist() == [wanted_classes] * 3
    assert all("scaffold" in row for row in made.rows)


def test_noise_is_turned_towards_it_and_stays_gaussian_in_length(molecule: Molecule) -> None:
    places = Scaffold(molecule("c1cc[nH]c1"), (1,)).places("qm9-heavy")
    counts = torch.full((64,), 7)
    plain = ScaffoldAtoms(9, 17, places.positions, places.sites, True, counts)
    noise = plain.sample(range(64), dtype=torch.float64)
    before = super(ScaffoldAtoms, plain).sample(range(64), dtype=torch.float64)
    torch.testing.assert_close(plain.radius(noise), plain.radius(before))
    ring = places.positions / places.positions.norm()

    def matched(x: torch.Tensor) -> float:
        return float((x[:, :5, :3] * ring).sum((1, 2)).mean())

    assert matched(noise) > 2 > 0.3 > abs(matched(before))


def test_it_is_kept_where_its_atoms_are_bound_as_they_were_at_their_places(
    molecule: Molecule,
) -> None:
    from rdkit import Chem

    whole = molecule("CCO")
    scaffold = Scaffold(whole, (1,))
    assert scaffold.kept(whole) and not scaffold.kept(None)
    moved, bent = Chem.Mol(whole), Chem.Mol(whole)
    place = whole.GetConformer().GetPositions()
    moved.GetConformer().SetPositions(place + 3.0)
    assert scaffold.kept(moved)
    place[0, 0] += 0.01
    bent.GetConformer().SetPositions(place)
    assert not scaffold.kept(bent)
    other = Chem.RWMol(whole)
    other.GetBondBetweenAtoms(0, 1).SetBondType(Chem.BondType.DOUBLE)
    assert not scaffold.kept(other.GetMol())


@pytest.mark.parametrize(
    ("smiles", "attach", "atoms", "message"),
    [
        ("CCO", "9,10", None, "attach: expected atoms from 1 to 9, got 10"),
        ("CC(C)(C)C", "2", None, r"attach: atom 2 \(C\) has no hydrogen to give up"),
        ("CCO", "3,3", None, r"attach: atom 3 \(O\) has 1 hydrogens to give up, 2 wanted"),
        ("CCO", "x", None, "attach: expected atoms as in 1,4, got 'x'"),
        ("CCO", "0", None, "attach: expected numbers of atoms, counted from 1"),
        ("CCO", None, [3], "scaffold: has 3 heavy atoms, the molecules 3: expected at least one"),
        ("CCCCCCCCC", None, None, "scaffold: has 9 heavy atoms, the molecules 2 to 9"),
        ("FC(F)(F)F", None, None, "scaffold: expected an atom with a hydrogen to give up"),
        ("CCCl", None, None, "scaffold: .*expected elements H, C, N, O, F, got Cl"),
        ("C[NH3+]", None, None, r"scaffold: .*expected a neutral molecule, got charge \+1"),
    ],
)
def test_what_cannot_be_is_refused(
    molecule: Molecule,
    tmp_path: Path,
    smiles: str,
    attach: str | None,
    atoms: Sequence[int] | None,
    message: str,
) -> None:
    file = write_sdf(tmp_path / "x.sdf", [molecule(smiles)])
    with pytest.raises(ValueError, match=message):
        wish_of(None, scaffold=file, attach=attach).sizes("qm9-heavy", atoms or range(2, 10))


def test_more_that_is_refused(molecule: Molecule, tmp_path: Path) -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    one = ethanol(tmp_path)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"attach": "1"}, "attach: expected --scaffold beside it"),
        ({"scaffold": one, "fragment": one}, "scaffold: expected no fragment beside it"),
        ({"scaffold": one, "elements": ["O=0"]}, "scaffold: has 1 O, of which at most 0 may be"),
    ]
    two = write_sdf(tmp_path / "two.sdf", [molecule("CCO")] * 2)
    wrong.append(({"scaffold": two}, "scaffold: expected one molecule in .*, got 2 records"))
    flat = Chem.MolFromSmiles("CCCO")
    AllChem.Compute2DCoords(flat)
    Chem.MolToMolFile(flat, str(tmp_path / "flat.sdf"))
    wrong.append(({"scaffold": tmp_path / "flat.sdf"}, "scaffold: .*flat.sdf, record 1"))
    (tmp_path / "none.sdf").write_text("")
    wrong.append(
        ({"scaffold": tmp_path / "none.sdf"}, "scaffold: .*none.sdf: expected SDF records")
    )
    for words, message in wrong:
        with pytest.raises(ValueError, match=message):
            wish_of(None, **words).sizes("qm9-heavy", range(2, 10))
    with pytest.raises(ValueError, match="attach: expected a scaffold beside it"):
        design("mu=2D", attach=[1])


def test_a_scaffold_that_the_table_does_not_read_is_told(molecule: Molecule) -> None:
    from rdkit import Chem

    long = Chem.Mol(molecule("CCO"))
    place = long.GetConformer().GetPositions()
    place[2] += 0.4 * (place[2] - place[1])
    long.GetConformer().SetPositions(place)
    _, told = wish_of(["mu=2D"]).sizes("qm9-heavy", range(4, 6))
    assert told == [] and Scaffold(molecule("CCO")).unstable() == []
    assert Scaffold(long).unstable() == [2, 3]
