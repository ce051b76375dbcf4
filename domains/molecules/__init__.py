"""Molecules of QM9 and MOSES: data, chemistry, metrics, networks and pretrained priors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctrlgen.lazy import attach
from ctrlgen.plugins import Domain

if TYPE_CHECKING:
    from ctrlgen.domains.molecules.costs import FragmentCost, SimilarityCost, ValenceCost
    from ctrlgen.domains.molecules.properties import PROPERTIES
    from ctrlgen.domains.molecules.views import MoleculeFile, Molecules

__all__ = [
    "PROPERTIES",
    "FragmentCost",
    "MoleculeFile",
    "Molecules",
    "SimilarityCost",
    "ValenceCost",
    "domain",
]

__getattr__, __dir__ = attach(__name__)

_TRAIN = "ctrlgen.domains.molecules.training:train"

domain = Domain(
    name="molecules",
    cards=Path(__file__).parent / "weights",
    command="molecule",
    app="ctrlgen.domains.molecules.cli:app",
    demo="ctrlgen.domains.molecules.demo:run",
    panel="ctrlgen.domains.molecules.panel:PANEL",
    builders=(
        "ctrlgen.domains.molecules.networks:build",
        "ctrlgen.domains.molecules.regressors:build",
        "ctrlgen.domains.molecules.score_networks:build",
    ),
    recipes={
        "qm9": _TRAIN,
        "qm9-heavy": _TRAIN,
        "qm9-evaluator": _TRAIN,
        "qm9-guide": _TRAIN,
        "qm9-heavy-guide": _TRAIN,
        "moses-heavy": _TRAIN,
        "moses-heavy-guide": _TRAIN,
    },
)
