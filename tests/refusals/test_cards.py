"""Bad cards: every field that can be wrong, wrong in every way, is named in one CardError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ctrlgen
from ctrlgen.domains.images.networks import build
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from tests.refusals.clear import unclear

CONFIG: dict[str, Any] = {"network": "unet", "shape": [1, 8, 8], "classes": 2, "widths": [4]}

BAD: dict[str, Any] = {
    "null": None,
    "number": 3,
    "fraction": 0.5,
    "list": [],
    "object": {},
    "empty": "",
    "true": True,
    "climb": "../x",
    "zero": "a\0b",
    "command": "os:system",
}
TEXT = {"empty", "climb", "zero", "command"}
FIELDS = {  # and what they may be
    "name": set(),
    "domain": TEXT,
    "factory": set(),
    "config": set(),
    "path": {"object"},
    "prediction": set(),
    "source": set(),
    "codec": set(),
    "grid": set(),
    "conditions": {"object"},
    "quality": {"object"},
    "command": TEXT,
    "licence": TEXT,
    "weights": set(),
    "sha256": set(),
    "format_version": set(),
}
PARTS: dict[str, Any] = {
    "number": {"type": 3},
    "list": {"type": []},
    "unknown": {"type": "Nowhere"},
    "private": {"type": "_Hidden"},
    "module": {"type": "torch"},
    "base": {"type": "Source"},
    "command": {"type": "os:system", "command": "true"},
    "function": {"type": "ctrlgen.rows.seeds:normal"},
    "other kind": {"type": "ctrlgen.methods.regularizers:GaussianNLL"},
    "absent": {"type": "ctrlgen.priors.sources:Absent"},
    "no module": {"type": "ctrlgen.absent:Absent"},
}
ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown argument": ("path", {"type": "CondOT", "power": 2}),
    "vp text": ("path", {"type": "VP", "beta_min": "small"}),
    "vp order": ("path", {"type": "VP", "beta_min": 30.0}),
    "vp object": ("path", {"type": "VP", "epsilon": {}}),
    "table text": ("path", {"type": "DiscreteVP", "alphas_cumprod": "cosine"}),
    "table missing": ("path", {"type": "DiscreteVP"}),
    "table rising": ("path", {"type": "DiscreteVP", "alphas_cumprod": [0.1, 0.9]}),
    "edm": ("path", {"type": "EDM", "sigma_min": -1.0}),
    "shape missing": ("source", {"type": "Gaussian"}),
    "shape large": ("source", {"type": "Gaussian", "shape": [10**9]}),
    "shape overflow": ("source", {"type": "Gaussian", "shape": [2**62, 2**62]}),
    "shape text": ("source", {"type": "Gaussian", "shape": "big"}),
    "shape null": ("source", {"type": "Gaussian", "shape": None}),
    "mask list": ("source", {"type": "MaskedGaussian", "mask": [[True]], "features": 3}),
    "atoms": ("source", {"type": "ctrlgen.domains.molecules.states:Atoms", "places": "x"}),
    "scale zero": ("codec", {"type": "Scaled", "scale": 0}),
    "scale text": ("codec", {"type": "Scaled", "scale": "x"}),
    "scale object": ("codec", {"type": "Scaled", "scale": {}}),
    "no network": ("codec", {"type": "ctrlgen.adapters.latent:AutoencoderCodec", "vae": "x"}),
    "power": ("grid", {"type": "Power", "power": -1}),
    "config width": ("config", {**CONFIG, "widths": [0]}),
    "config widths": ("config", {**CONFIG, "widths": []}),
    "config kind": ("config", {**CONFIG, "network": "mlp"}),
    "config kind number": ("config", {**CONFIG, "network": 3}),
    "config deep": ("config", {**CONFIG, "depth": 10**7}),
    "config unknown": ("config", {**CONFIG, "colour": "red"}),
    "config std": ("config", {**CONFIG, "std": None}),
    "label": ("conditions", {"label": 3}),
    "label classes": ("conditions", {"label": {"classes": -1}}),
    "label null": ("conditions", {"label": {"null": "none"}}),
    "label unknown": ("conditions", {"label": {"kind": 2}}),
}
CASES = [
    *(
        pytest.param(field, {field: bad}, id=f"{field}-{name}")
        for field, may in FIELDS.items()
        for name, bad in BAD.items()
        if name not in may
    ),
    *(
        pytest.param(field, {field: part}, id=f"{field}-type-{name}")
        for field in ("path", "source", "codec", "grid")
        for name, part in PARTS.items()
    ),
    *(pytest.param(field, {field: part}, id=name) for name, (field, part) in ARGUMENTS.items()),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("cards")
    prior = Prior(Flow(build(**CONFIG), CondOT()), Gaussian([1, 8, 8]))
    prior.save(where, "toy", factory="ctrlgen.domains.images.networks:build", config=CONFIG)
    return where


@pytest.mark.parametrize(("field", "changes"), CASES)
def test_every_field(folder: Path, field: str, changes: dict[str, Any]) -> None:
    content = {**json.loads((folder / "toy.json").read_text()), **changes}
    (folder / "bad.json").write_text(json.dumps(content))
    argument = "format_version 1, got" if field == "format_version" else field
    told = unclear(lambda: ctrlgen.load(folder / "bad.json"), argument)
    if field == "format_version":
        told = "" if "expected format_version 1" in told else told
    assert told == ""


@pytest.mark.parametrize("field", ["name", "factory", "config", "path", "prediction", "source"])
def test_missing_fields(folder: Path, field: str) -> None:
    content = json.loads((folder / "toy.json").read_text())
    del content[field]
    (folder / "bad.json").write_text(json.dumps(content))
    assert unclear(lambda: ctrlgen.load(folder / "bad.json"), f"{field}") == ""


def test_there_are_enough() -> None:
    assert len(CASES) >= 220
