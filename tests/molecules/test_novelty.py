"""Digests of QM9's skeletons: what is known, where, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctrlgen.domains.molecules import novelty as module
from ctrlgen.domains.molecules.novelty import Known, known
from ctrlgen.domains.molecules.qm9 import Name


def test_known_and_new() -> None:
    table = Known.of(
        {"D_b": ["LFQSCWFLJHTTHZ", "LELOWRISYMNNSU"], "test": ["LELOWRISYMNNSU", "IKHGUXGNUITLKF"]}
    )
    assert len(table) == 4 and repr(table) == "Known(D_b: 2, test: 2)"
    assert table.holds("LFQSCWFLJHTTHZ") and table.holds("LFQSCWFLJHTTHZ", "D_b")
    assert not table.holds("LFQSCWFLJHTTHZ", "test") and table.holds("IKHGUXGNUITLKF")
    assert not table.holds("IKHGUXGNUITLKF", "D_b") and not table.holds("")
    for digests in table.digests.values():
        assert np.all(np.diff(digests.astype(np.int64)) > 0) and int(digests.max()) < 2**40


def test_the_file_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    inchis = [chem.MolToInchi(chem.MolFromSmiles(text)) for text in ("CCO", "C#N", "CC=O", "CO")]
    named = [Name(i + 1, "", inchi) for i, inchi in enumerate(inchis)]
    monkeypatch.setattr(module, "_FILE", tmp_path / "novelty.safetensors")
    monkeypatch.setattr(module, "names", lambda folder: named)
    rows = {"D_a": [0], "D_b": [1, 2], "valid": [3], "test": [0]}
    monkeypatch.setattr(module, "split_rows", lambda part: np.array(rows[part]))
    monkeypatch.setattr("sys.argv", ["novelty", "--data", str(tmp_path)])
    module.main()
    known.cache_clear()
    table = known()
    known.cache_clear()
    key = chem.InchiToInchiKey(inchis[2]).split("-")[0]
    assert len(table) == 5 and table.holds(key, "D_b") and not table.holds(key, "D_a")


def test_embedded_table_holds_qm9() -> None:
    table = known()
    sizes = {name: len(digests) for name, digests in table.digests.items()}
    assert sizes == {"D_a": 49377, "D_b": 49339, "valid": 17662, "test": 13031}
    # ethanol, and aspirin, which has thirteen heavy atoms
    assert table.holds("LFQSCWFLJHTTHZ") and not table.holds("BSYNRYMUTXBXSQ")
