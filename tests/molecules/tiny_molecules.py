"""Tiny random networks as cards, and a small molecule in a file, for tests of the commands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.regressors import build as build_regressor
from ctrlgen.domains.molecules.sdf import write_sdf
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
from ctrlgen.domains.molecules.uncertainty import HeadCovariance, fit
from ctrlgen.priors.cards import Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior

SHAPE = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}


def awake(network: nn.Module, std: float) -> nn.Module:
    for parameter in network.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=std)
    return network


def save_prior(folder: Path, kinds: int, places: int) -> Path:
    torch.manual_seed(0)
    config = {
        "network": "geot", "classes": kinds, "scale": 0.2, "frequencies": [1 / kinds] * kinds,
        **SHAPE,
    }  # fmt: skip
    network = awake(build(**config), 0.2)
    prior = Prior(Flow(network, CondOT()), Atoms(places, 3 + kinds), AtomCodec())
    return prior.save(
        folder,
        f"tiny{kinds}",
        factory="ctrlgen.domains.molecules.networks:build",
        config=config,
        domain="molecules",
        conditions={"counts": {"least": 2, "most": places}},
    )


def save_regressor(folder: Path, name: str, kinds: int, seed: int) -> Path:
    torch.manual_seed(seed)
    config = {
        "classes": kinds,
        "mean": [75.0, 6800.0, -6500.0, 300.0, 2.7, 32.0],
        "deviation": list(DEVIATION.values()),
        "baseline": [[0.1] * kinds + [-0.5]] * 4,
        **SHAPE,
    }
    network = awake(build_regressor(**config), 0.3)
    payload = save({k: v.contiguous() for k, v in network.state_dict().items()})
    (folder / f"{name}.safetensors").write_bytes(payload)
    card = Card(
        name=name, domain="molecules", factory="ctrlgen.domains.molecules.regressors:build",
        config=config, path={}, prediction="", source={}, weights=f"{name}.safetensors",
        sha256=hashlib.sha256(payload).hexdigest(),
    )  # fmt: skip
    card.write(folder / f"{name}.json")
    return folder / f"{name}.json"


@contextmanager
def unsure(card: Path) -> Iterator[HeadCovariance]:
    """The head covariance of a tiny guide, of random features and errors, while it lasts."""
    file, draw = card.with_suffix(".head.safetensors"), torch.Generator().manual_seed(1)
    features = torch.rand(200, 2 * SHAPE["width"], generator=draw).double()
    covariance = fit(features, features, torch.randn(200, 6, generator=draw).double())
    covariance.save(file, Card.read(card).sha256)
    try:
        yield covariance
    finally:
        file.unlink()


class Cards(NamedTuple):
    """Paths of tiny cards: a heavy-atom prior with its guide, an evaluator, an all-atom prior."""

    prior: Path
    guide: Path
    evaluator: Path
    whole: Path

    @property
    def options(self) -> list[object]:
        return [
            "--prior", self.prior, "--guide", self.guide, "--evaluator", self.evaluator,
            "--steps", 2, "--evaluations", 2, "--restarts", 0,
        ]  # fmt: skip


def ethanol(folder: Path) -> Path:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return write_sdf(folder / "ethanol.sdf", [mol])


class Outcome(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def solved(ctrlgen: Command, *words: object) -> dict[str, Any]:
    outcome = ctrlgen(*words, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)
