"""QM9's own values of molecules, found by constitution and configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctrlgen.domains.molecules import qm9
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.elements import classes_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import arrays
from ctrlgen.experiments.shared import dft_labels
from ctrlgen.experiments.shared.dft_labels import Labels, constitution

chem = pytest.importorskip("rdkit.Chem")
embed = pytest.importorskip("rdkit.Chem.AllChem").EmbedMolecule
PLANES = ("C[C@H](O)[C@H](F)C", "C[C@H](O)[C@@H](F)C", "CCO", "O=c1cc[nH]cc1", "Oc1ccncc1")


def built(smiles: str) -> chem.Mol:
    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    embed(mol, randomSeed=7)
    return mol


def test_labels_know_diastereomers_and_tautomers_apart_and_mirror_images_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mols = [built(smiles) for smiles in PLANES]
    numbers, positions = arrays(mols)
    each = torch.arange(len(mols))
    values = {name: 100.0 * column + each for column, name in enumerate(PROPERTIES)}
    data = Molecules(
        positions, classes_of(numbers), (numbers > 0).sum(1), values, 10 + each, "qm9", "all"
    )
    names = [
        qm9.Name(10 + i, smiles, constitution(chem.MolToInchi(mol)))
        for i, (smiles, mol) in enumerate(zip(PLANES, mols, strict=True))
    ]
    monkeypatch.setattr(dft_labels, "read", lambda name, folder, split: data)
    monkeypatch.setattr(qm9, "names", lambda folder: names)
    labels = Labels(Path())
    mirrored = chem.MolFromSmiles("C[C@@H](O)[C@@H](F)C")
    asked = [chem.MolFromSmiles(s) for s in reversed(PLANES)]
    found = labels([*asked, mirrored, None, chem.MolFromSmiles("CCN")])
    assert found[:, 1].tolist()[:6] == [104, 103, 102, 101, 100, 100]
    assert torch.equal(found[:6, 5] - found[:6, 0], torch.full((6,), 500.0))
    assert bool(found[6:].isnan().all())
