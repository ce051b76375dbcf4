"""RDKit's scores of a molecule by name, plain functions; nothing of ctrlgen, so that the helper
process of `chemistry_process` has them too. See `rdkit_scores` for what they are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def score(name: str) -> Callable[[Any], float]:
    """The function of "qed", "logp", "tpsa" or "sa" of a molecule without hydrogens as atoms.

    Raises:
        ValueError: for "sa" where RDKit comes without it.
    """
    from rdkit import RDConfig
    from rdkit.Chem import QED, Crippen, rdMolDescriptors

    if name == "sa":
        file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
        spec = importlib.util.spec_from_file_location("sascorer", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise ValueError("score: this build of RDKit comes without its SA score")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        calculate: Callable[[Any], float] = module.calculateScore
        return calculate
    table: dict[str, Callable[[Any], float]] = {
        "qed": QED.qed,
        "logp": Crippen.MolLogP,  # type: ignore[attr-defined]
        "tpsa": rdMolDescriptors.CalcTPSA,
    }
    return table[name]
