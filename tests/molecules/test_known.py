"""Digests of the training SMILES: what is known, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctrlgen.domains.molecules import known as module
from ctrlgen.domains.molecules.known import Known, known


def test_known_and_new() -> None:
    smiles = ["CCO", "C#N", "CC(=O)O", "C1CO1", "CCO"]
    table = Known.of(smiles)
    assert len(table) == 4 and all(text in table for text in smiles)
    assert not any(text in table for text in ("CC", "", "CCOC", "O=C"))
    assert None not in table and np.all(np.diff(table.digests.astype(np.int64)) > 0)
    assert int(table.digests.max()) < 2**40
    with pytest.raises(TypeError, match="back into SMILES"):
        list(table)


def test_the_file_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = {"CCO", "C#N", "CC=O"}
    monkeypatch.setattr(module, "_FILE", tmp_path / "known.safetensors")
    monkeypatch.setattr(module, "reference_smiles", lambda folder, name: smiles)
    monkeypatch.setattr("sys.argv", ["known", "--data", str(tmp_path)])
    module.main()
    known.cache_clear()
    table = known()
    known.cache_clear()
    assert len(table) == 3 and "CC=O" in table and "CCO" in table and "CC" not in table


def test_embedded_table_holds_the_training_set() -> None:
    table = known()
    assert 90_000 < len(table) < 100_000
    assert "CCCCCCCCCCCC" not in table and "Cl" not in table
