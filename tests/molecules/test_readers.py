"""Records of files: what they bring is kept, what is broken is a record with its reason."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctrlgen.domains.molecules.perception import name
from ctrlgen.domains.molecules.readers import read_records
from ctrlgen.domains.molecules.sdf import read_sdf, write_sdf
from ctrlgen.domains.molecules.xyz import write_xyz

if TYPE_CHECKING:
    from rdkit.Chem import Mol

pytest.importorskip("rdkit")


def test_titles_properties_stereo_and_isotopes_are_kept(
    tmp_path: Path, molecule: Callable[[str], Mol]
) -> None:
    from rdkit import Chem

    chiral, heavy = molecule("C[C@H](O)F"), molecule("CO")
    heavy.GetAtomWithIdx(0).SetIsotope(13)
    tags = [{"name": "R one", "mine": "3.5", "empty": ""}, {"name": "heavy", "note": "a\nb"}]
    write_sdf(tmp_path / "in.sdf", [chiral, heavy], tags)
    first, second = read_records(tmp_path / "in.sdf", "file")
    assert (first.number, first.title, second.number) == (1, "R one", 2)
    assert dict(first.tags) == {"name": "R one", "mine": "3.5", "empty": ""}
    assert dict(second.tags)["note"] == "a\nb"
    names = name([first.mol, second.mol], stereo=False)
    assert names[0].smiles == Chem.CanonSmiles("C[C@H](O)F")
    assert names[1].smiles == "[13CH3]O"


def test_a_bad_record_is_not_the_end_of_the_file(
    tmp_path: Path, molecule: Callable[[str], Mol]
) -> None:
    texts = []
    for smiles in ("CO", "CN", "CC"):
        write_sdf(tmp_path / "one.sdf", [molecule(smiles)], [{"name": smiles}])
        texts.append((tmp_path / "one.sdf").read_text())
    broken = texts[1].replace("M  END", "M  STOP")
    (tmp_path / "in.sdf").write_text(texts[0] + broken + texts[2])
    records = read_records(tmp_path / "in.sdf", "file")
    assert [record.mol is None for record in records] == [False, True, False]
    assert records[1].number == 2 and records[1].title == "CN"
    assert "expected a complete V2000 or V3000 record" in records[1].reason
    with pytest.raises(ValueError, match=r"record 2 \(CN\)"):
        read_sdf(tmp_path / "in.sdf")


def test_compressed_and_other_formats(tmp_path: Path, molecule: Callable[[str], Mol]) -> None:
    from rdkit import Chem

    mol = molecule("c1ccncc1")
    write_sdf(tmp_path / "in.sdf", [mol])
    (tmp_path / "in.sdf.gz").write_bytes(gzip.compress((tmp_path / "in.sdf").read_bytes()))
    write_xyz(tmp_path / "in.xyz", [mol, molecule("CC(=O)[O-]")], [{}, {"charge": -1}])
    (tmp_path / "in.xyz.gz").write_bytes(gzip.compress((tmp_path / "in.xyz").read_bytes()))
    (tmp_path / "in.pdb").write_text(Chem.MolToPDBBlock(mol))
    for file, texts in (
        ("in.sdf", ["c1ccncc1"]),
        ("in.sdf.gz", ["c1ccncc1"]),
        ("in.xyz", ["c1ccncc1", "CC(=O)[O-]"]),
        ("in.xyz.gz", ["c1ccncc1", "CC(=O)[O-]"]),
        ("in.pdb", ["c1ccncc1"]),
    ):
        records = read_records(tmp_path / file, "file")
        names = name([record.mol for record in records])
        assert [own.smiles for own in names] == texts, file
    (tmp_path / "bad.sdf.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ValueError, match="expected gzip data"):
        read_records(tmp_path / "bad.sdf.gz", "file")
    with pytest.raises(ValueError, match=r"file: expected an SDF, MOL.*in\.cif"):
        (tmp_path / "in.cif").write_text("")
        read_records(tmp_path / "in.cif", "file")


def test_positions_are_made_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text("CCO ethanol\n\nC1CC name with words\nC[C@H](O)F\n")
    flat = read_records(tmp_path / "in.smi", "file")
    assert [record.title for record in flat] == ["ethanol", "name with words", ""]
    assert "--embed" in flat[0].reason and "no SMILES" in flat[1].reason
    solid = read_records(tmp_path / "in.smi", "file", embed=True)
    assert [record.mol is None for record in solid] == [False, True, False]
    assert solid[0].mol is not None and solid[0].mol.GetNumAtoms() == 9
    assert solid[0].mol.GetConformer().Is3D()
    assert name([solid[2].mol])[0].smiles == "C[C@H](O)F"


def test_hydrogens_that_are_missing_are_placed(
    tmp_path: Path, molecule: Callable[[str], Mol]
) -> None:
    from rdkit import Chem

    write_sdf(tmp_path / "in.sdf", [Chem.RemoveHs(molecule("CC(=O)N"))])
    (record,) = read_records(tmp_path / "in.sdf", "file")
    assert record.mol is not None and record.mol.GetNumAtoms() == 9


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ({"a": "", "b": "2"}, {"a": "", "b": "2"}),
        ({"a": "$$$$", "b": "2"}, {"a": "$$$$", "b": "2"}),
        ({"a": "> <b>", "b": "2"}, {"a": "> <b>", "b": "2"}),
        ({"a": "M  END", "b": "x\n\ny"}, {"a": "M END", "b": "x\ny"}),
    ],
)
def test_data_items_are_what_rdkit_reads(
    tmp_path: Path, molecule: Callable[[str], Mol], tags: dict[str, str], names: dict[str, str]
) -> None:
    from rdkit import Chem

    path = tmp_path / "in.sdf"
    titles = ["> first", "$$$$"]
    mols = [molecule("CO"), molecule("CN")]
    write_sdf(path, mols, [{"name": title, **tags} for title in titles])
    entries = read_sdf(path)
    assert len(entries) == 2
    for entry in entries:
        assert {key: entry.tags[key] for key in names} == names
    theirs = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert [mol.GetNumAtoms() for mol in theirs] == [6, 7]
    assert theirs[0].GetProp("_Name") == "> first"
    for mol in theirs:
        assert {key: mol.GetProp(key).strip() for key in names} == names
    # what RDKit writes, we read
    with Chem.SDWriter(str(tmp_path / "rdkit.sdf")) as writer:
        own = Chem.Mol(mols[0])
        own.SetProp("empty", "")
        own.SetProp("next", "2")
        own.SetProp("_Name", "> title")
        writer.write(own)
    (entry,) = read_sdf(tmp_path / "rdkit.sdf")
    assert entry.tags == {"empty": "", "next": "2"}
