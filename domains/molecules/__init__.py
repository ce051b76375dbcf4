"""Molecules of QM9: data, chemistry, metrics, networks and pretrained priors."""

from __future__ import annotations

from pathlib import Path

from ctrlgen.plugins import Domain

__all__ = ["domain"]

_TRAIN = "ctrlgen.domains.molecules.training:train"

domain = Domain(
    name="molecules",
    cards=Path(__file__).parent / "weights",
    command="molecule",
    app="ctrlgen.domains.molecules.cli:app",
    demo="ctrlgen.domains.molecules.demo:run",
    builders=(
        "ctrlgen.domains.molecules.networks:build",
        "ctrlgen.domains.molecules.regressors:build",
    ),
    recipes={
        "qm9": _TRAIN,
        "qm9-heavy": _TRAIN,
        "qm9-evaluator": _TRAIN,
        "qm9-guide": _TRAIN,
        "qm9-heavy-guide": _TRAIN,
    },
)
