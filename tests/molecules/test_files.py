"""SDF, extended XYZ and CSV: there and back, and errors that name the place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctrlgen.domains.molecules import files, sdf, xyz

if TYPE_CHECKING:
    from rdkit.Chem import Mol

TAGS = {"name": "sample 0", "seed": 3, "mu (D)": 2.98765432109, "stable": True, "xtb": math.nan,
        "note": 'two\nlines, "quoted"', "none": None}  # fmt: skip


@pytest.fixture
def three(molecule: Callable[[str], Mol]) -> list[Mol | None]:
    return [molecule("c1ccoc1"), None, molecule("CC#N")]


def test_sdf_there_and_back(tmp_path: Path, three: list[Mol | None]) -> None:
    path = sdf.write_sdf(tmp_path / "out.sdf", three, [TAGS, {"name": "lost"}, {}])
    entries = sdf.read_sdf(path)
    assert [entry.mol is None for entry in entries] == [False, True, False]
    assert entries[0].tags == {
        "name": "sample 0", "seed": "3", "mu (D)": "2.9876543", "stable": "true", "xtb": "nan",
        "note": 'two\nlines, "quoted"', "none": "",
    }  # fmt: skip
    assert entries[1].tags == {"name": "lost"} and entries[2].tags == {}
    from rdkit import Chem

    for entry, mol in zip(entries, three, strict=True):
        if mol is not None and entry.mol is not None:
            assert Chem.MolToSmiles(entry.mol) == Chem.MolToSmiles(mol)
            places = [m.GetConformer().GetPositions() for m in (entry.mol, mol)]
            assert np.abs(places[0] - places[1]).max() < 1e-4
    read = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert len(read) == 3 and read[0].GetProp("seed") == "3"
    assert read[0].GetProp("_Name") == "sample 0"


def test_sdf_of_a_graph_that_rdkit_refuses(tmp_path: Path, molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    mol = Chem.RWMol(molecule("CC"))
    mol.AddBond(0, 5, Chem.BondType.TRIPLE)
    (entry,) = sdf.read_sdf(sdf.write_sdf(tmp_path / "bad.sdf", [mol.GetMol()]))
    assert entry.mol is not None and entry.mol.GetNumBonds() == 8


@pytest.mark.parametrize("far", [2e6, -1e5, math.nan])
def test_sdf_has_no_room_for_lost_atoms(
    tmp_path: Path, molecule: Callable[[str], Mol], far: float
) -> None:
    lost, mol = molecule("CC"), molecule("CO")
    lost.GetConformer().SetAtomPosition(3, [0.0, far, 0.0])
    path = sdf.write_sdf(tmp_path / "out.sdf", [lost, mol], [{"seed": 1}, {"seed": 2}])
    first, second = sdf.read_sdf(path)
    assert first == sdf.Entry(None, {"seed": "1"}) and second.mol is not None


def test_old_files_stay_until_the_new_one_is_complete(
    tmp_path: Path, three: list[Mol | None]
) -> None:
    path = sdf.write_sdf(tmp_path / "out.sdf", three[:1])
    before = path.read_text()
    with pytest.raises(ValueError, match="without < or >"):
        sdf.write_sdf(path, three, [{}, {}, {"a>b": 1}])
    with pytest.raises(ValueError, match="one mapping per molecule, 3, got 1"):
        sdf.write_sdf(path, three, [{}])
    assert path.read_text() == before and [f.name for f in tmp_path.iterdir()] == ["out.sdf"]


def test_broken_sdf_names_the_record(tmp_path: Path, three: list[Mol | None]) -> None:
    path = sdf.write_sdf(tmp_path / "in.sdf", [three[0], three[2]], [{"name": "a"}, {"name": "b"}])
    text = path.read_text()

    def refuse(content: str, message: str) -> None:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            sdf.read_sdf(path)

    refuse(text[: text.rindex("M  END") - 20], r"record 2 \(b\): expected a complete")
    refuse(text.replace(" C  ", " Qq ", 1), r"record 1 \(a\)")
    refuse("", "empty")
    refuse("no molecule at all\n", "record 1")
    first = text.splitlines()[4]
    refuse(text.replace(first, "       nan" + first[10:]), "record 1")
    flat = "\n".join(
        line[:20] + "    0.0000" + line[30:] if line[30:32] in (" C", " H", " N", " O") else line
        for line in text.replace("3D", "2D").splitlines()
    )
    refuse(flat, r"record 1 \(a\): expected three-dimensional")
    with pytest.raises(FileNotFoundError):
        sdf.read_sdf(tmp_path / "none.sdf")


def test_xyz_there_and_back(tmp_path: Path, three: list[Mol | None]) -> None:
    path = xyz.write_xyz(tmp_path / "out.xyz", three, [TAGS, {}, {"gap (meV)": 6800.0}])
    frames = xyz.read_xyz(path)
    assert [len(frame.symbols) for frame in frames] == [9, 0, 6]
    assert frames[0].symbols[:5] == ["C", "C", "C", "O", "C"]
    assert three[2] is not None
    assert np.abs(frames[2].positions - three[2].GetConformer().GetPositions()).max() < 1e-7
    assert frames[0].tags["note"] == 'two lines, "quoted"' and frames[0].tags["seed"] == "3"
    assert frames[2].tags == {"gap_(meV)": "6800"} and frames[1].tags == {}


def test_plain_xyz_with_extra_columns(tmp_path: Path) -> None:
    path = tmp_path / "in.xyz"
    path.write_text("2\n\nO 0 0 0 -0.4\nH 0.0 0.0 9.6e-1 0.4\n\n")
    (frame,) = xyz.read_xyz(path)
    assert frame.symbols == ["O", "H"] and frame.positions[1].tolist() == [0, 0, 0.96]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("two\n\nO 0 0 0\n", "line 1: expected a number of atoms"),
        ("2\n\nO 0 0 0\n", "line 1: expected 2 atoms, got 1"),
        ("1\n\nO 0 0\n", "line 3: expected a symbol"),
        ("1\n\nO 0 0 nan\n", "line 3: expected finite"),
        ("1\n\n8 0 0 0\n", "line 3: expected a symbol"),
        ("1\n\nO 0 0 0\n1\n\nO 0 x 0\n", "line 6"),
        ("1", "line 1: expected 1 atoms, got 0"),
    ],
)
def test_broken_xyz_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "in.xyz"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        xyz.read_xyz(path)


def test_csv_there_and_back(tmp_path: Path) -> None:
    path = files.write_csv(tmp_path / "out.csv", [TAGS, {"seed": 4, "gap (meV)": 1.5}])
    rows = files.read_csv(path)
    assert list(rows[0]) == [*TAGS, "gap (meV)"] and len(rows) == 2
    assert rows[0]["note"] == 'two lines, "quoted"' and rows[0]["mu (D)"] == "2.9876543"
    assert rows[1]["seed"] == "4" and rows[1]["mu (D)"] == "" and rows[0]["gap (meV)"] == ""
    path.write_text("a,b\n1\n")
    with pytest.raises(ValueError, match="row 2: expected 2 cells, got 1"):
        files.read_csv(path)
    path.write_text("")
    with pytest.raises(ValueError, match="empty"):
        files.read_csv(path)
    with pytest.raises(ValueError, match="rows"):
        files.write_csv(path, [])


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"out: cannot write .*file/out\.csv"):
        files.write_csv(tmp_path / "file" / "out.csv", [{"a": 1}])
