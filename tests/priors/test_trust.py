"""Cards execute nothing: a name in one is a registered builder, or of a package the user trusts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen import plugins
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.priors.factories import network_of
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Card, Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.priors.trust import names_of, resolve, trusting
from ctrlgen.rows.errors import CardError

MODULE = """
import pathlib
import torch
from subprocess import check_output
pathlib.Path(__file__).with_name("imported").touch()


class Net(torch.nn.Module):
    def __init__(self, size=4):
        super().__init__()
        self.layer = torch.nn.Linear(size, size)

    def forward(self, x, t):
        return self.layer(x)


def build(size=4):
    return Net(size)


number = 3
"""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No command of the system is run, by whatever name a card calls it."""

    def canary(*_: Any, **__: Any) -> None:
        raise AssertionError("a card ran a command")

    monkeypatch.setattr(os, "system", canary)
    monkeypatch.setattr("subprocess.check_output", canary)
    yield


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the working folder, which is not importable otherwise."""
    (tmp_path / "nets_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield "nets_of_mine"
    sys.modules.pop("nets_of_mine", None)
    assert sys.path == before


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card of ctrlgen's own network, to be changed."""
    network = Layer()
    Prior(Flow(network, CondOT()), Gaussian((4,))).save(
        tmp_path, "toy", factory="tests.priors.test_trust:Layer", config={}
    )
    return tmp_path / "toy.json"


class Layer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def changed(card: Path, **changes: Any) -> Path:
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    return card


HOSTILE = [
    ("os:system", {"command": "touch pwned"}),
    ("subprocess:check_output", {"args": ["touch", "pwned"]}),
    ("builtins:exec", {"source": "1"}),
    ("torch:load", {"f": "x.pt", "weights_only": False}),
    ("nets_of_mine:build", {}),
    ("ctrlgen.plugins:os", {}),
    ("ctrlgen.plugins:load_file", {"file": "nets_of_mine.py", "argument": "x"}),
    ("ctrlgen.plugins:resolve", {"reference": "os:system"}),
    ("ctrlgen.priors:torch", {}),
    ("ctrlgen.priors.documents:write_whole", {"file": "pwned", "content": "x"}),
    ("ctrlgen.commands.main:main", {"arguments": ["demo"]}),
    ("ctrlgen.domains.images.networks:nn", {}),
    ("ctrlgen.domains.molecules.chemistry_process:main", {}),
    ("ctrlgen.__main__:main", {}),
    ("ctrlgen.priors.cards:Card", {}),
    ("ctrlgenX:build", {}),
    (".os:system", {}),
    ("os.:system", {}),
    ("os:system:x", {}),
    ("os:path.join", {}),
    ("", {}),
    (":", {}),
]


@pytest.mark.parametrize(("factory", "config"), HOSTILE, ids=str)
def test_a_card_runs_nothing(
    card: Path, package: str, tmp_path: Path, factory: str, config: dict[str, Any]
) -> None:
    with pytest.raises(CardError, match="card toy: factory: "):
        ctrlgen.load(changed(card, factory=factory, config=config))
    with pytest.raises(CardError, match="card toy: factory: "):
        network_of(Card.read(card), tmp_path)
    assert not (tmp_path / "imported").exists() and not (tmp_path / "pwned").exists()
    assert "nets_of_mine" not in sys.modules


@pytest.mark.parametrize("field", ["path", "source", "codec"])
@pytest.mark.parametrize("name", ["nets_of_mine:Net", "os:system", "ctrlgen.plugins:Path"])
def test_parts_of_a_card_run_nothing(card: Path, package: str, field: str, name: str) -> None:
    part = {"type": name, "command": "touch pwned"}
    with pytest.raises(CardError, match=f"card toy: {field}: '{name}'"):
        ctrlgen.load(changed(card, **{field: part}), trust=["tests"])
    assert not card.with_name("imported").exists()


def test_every_door_to_a_card_is_the_same(card: Path, package: str) -> None:
    changed(card, factory="nets_of_mine:build")
    for door in (ctrlgen.load, regressor, lambda file: network_of(Card.read(file), file.parent)):
        with pytest.raises(CardError, match=r"trust=\['nets_of_mine'\] \(--trust nets_of_mine\)"):
            door(str(card) if door is regressor else card)
    assert not card.with_name("imported").exists()


def test_what_the_user_trusts_is_loaded(card: Path, package: str, tmp_path: Path) -> None:
    weights = ctrlgen.load(card, trust=["tests"]).flow.network.state_dict()
    network = plugins.resolve("nets_of_mine:build", beside=True)()
    network.layer.load_state_dict(weights)
    prior = Prior(Flow(network, CondOT()), Gaussian((4,)))
    file = prior.save(tmp_path, "mine", factory="nets_of_mine:build", config={"size": 4})
    with pytest.raises(CardError, match="nothing was imported"):
        ctrlgen.load(file)
    again = ctrlgen.load(file, trust=["nets_of_mine"])
    assert torch.equal(again.sample([1, 2]), prior.sample([1, 2]))
    assert ctrlgen.load(file, trust="nets_of_mine").source.shape == (4,)
    with trusting(["nets_of_mine"]):
        assert ctrlgen.load(file).source.shape == (4,)
    with pytest.raises(CardError, match="nothing was imported"):
        ctrlgen.load(file)


def test_trust_covers_a_package_and_its_own_functions_only(card: Path, package: str) -> None:
    for name, message in (
        ("nets_of_mine:check_output", "expected a Module class or a function or class of its own"),
        ("nets_of_mine:number", "expected a Module class or a function"),
        ("nets_of_mine:torch", "expected a Module class or a function"),
        ("nets_of_mine:absent", "names nothing that is installed"),
        ("nets_of_mine_too:build", "nothing was imported"),
    ):
        with pytest.raises(CardError, match=message):
            ctrlgen.load(changed(card, factory=name), trust=["nets_of_mine"])


def test_a_trusted_module_that_breaks_is_told(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Two texts of one length within a second are the same module to Python's byte code.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for text, message in (
        ("1 / 0", "broken_of_mine cannot be imported: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit"),
        ("import surely_not_there", "surely_not_there"),
    ):
        (tmp_path / "broken_of_mine.py").write_text(text)
        with pytest.raises(CardError, match=message):
            ctrlgen.load(changed(card, factory="broken_of_mine:build"), trust=["broken_of_mine"])
        assert "broken_of_mine" not in sys.modules


@pytest.mark.parametrize(
    ("trust", "error", "message"),
    [
        (["os"], ValueError, "trust: expected a package that builds networks, got 'os'"),
        ("subprocess", ValueError, "got 'subprocess', a library"),
        (["torch.serialization"], ValueError, "got 'torch.serialization', a library"),
        (["my_nets:build"], ValueError, "trust: expected names of packages, .* 'my_nets:build'"),
        (["../nets"], ValueError, "trust: expected names of packages"),
        ([""], ValueError, "trust: expected names of packages"),
        ([3], TypeError, "trust: expected names of packages, got 3"),
        (3, TypeError, "trust: expected a list of names of packages, got 3"),
        (True, TypeError, "trust: expected a list of names"),
    ],
    ids=str,
)
def test_what_cannot_be_trusted(trust: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        names_of(trust)
    with pytest.raises(error, match=message):
        ctrlgen.load("mnist", trust=trust)


def test_builders_of_domains_are_what_their_cards_name() -> None:
    """Every embedded card loads without trust, and every registered builder is there."""
    registered = {b for domain in plugins.domains().values() for b in domain.builders}
    for file in plugins.cards().values():
        assert Card.read(file).factory in registered
    for reference in registered:
        assert callable(resolve(reference, nn.Module, "factory"))


def test_classes_of_installed_packages_need_their_kind(card: Path) -> None:
    assert resolve("ctrlgen.adapters.adm:ADM", nn.Module, "factory").__name__ == "ADM"
    assert resolve(
        "ctrlgen.domains.molecules.states:Atoms", ctrlgen.priors.sources.Source, "source"
    )
    for name in ("ctrlgen.domains.molecules.states:Atoms", "ctrlgen.adapters.adm:Card"):
        with pytest.raises(CardError, match="expected a Module"):
            resolve(name, nn.Module, "factory")
    with pytest.raises(CardError, match="is private to its package"):
        resolve("ctrlgen.priors.weights:_Bounded", nn.Module, "factory")
