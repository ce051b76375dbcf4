"""Property networks by their names: guides, which steer, and evaluators, which judge.

A guide reads molecules of its prior's alphabet; an evaluator complete ones, and never steers.
"""

from __future__ import annotations

from pathlib import Path

from ctrlgen import plugins
from ctrlgen.domains.molecules.elements import alphabet
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.scoring import EVALUATOR
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.rows.errors import UnknownName, concerning

__all__ = ["judge", "regressor", "regressor_card"]

_FACTORY = "ctrlgen.domains.molecules.regressors:build"


def regressor_card(name: str, what: str = "network") -> tuple[Card, Path]:
    """Card of a property network, and the folder of its weights.

    Args:
        name: of an embedded network, or the path of a card.
        what: name of the argument, for errors.

    Raises:
        UnknownName: there is none of that name; lists those that there are.
    """
    file = Path(name) if name.endswith(".json") else plugins.cards().get(name)
    if file is None or not file.is_file():
        raise UnknownName(what, name, _regressors())
    return Card.read(file), file.parent


def _regressors() -> list[str]:
    cards = ((name, Card.read(file)) for name, file in plugins.cards().items())
    return [name for name, card in cards if card.factory == _FACTORY]


def regressor(name: str, device: str = "cpu", what: str = "network") -> PropertyNetwork:
    """A property network by the name of an embedded one, or by the path of a card.

    Raises:
        UnknownName: there is none of that name; lists those that there are.
        CardError: if card or weights are damaged.
    """
    with concerning(what):
        card, folder = regressor_card(name, what)
        network = network_of(card, folder)
    if not isinstance(network, PropertyNetwork):
        raise UnknownName(what, name, _regressors())
    return network.to(device).eval().requires_grad_(False)


def judge(name: str, device: str = "cpu") -> PropertyNetwork:
    """An evaluator: a property network that reads complete molecules, the alphabet "qm9".

    Raises:
        UnknownName: there is none of that name.
        ValueError: it is a network of another alphabet.
    """
    network = regressor(name, device, "evaluator")
    if network.classes != len(alphabet("qm9")):
        raise ValueError(
            f"evaluator: {name!r} reads heavy atoms alone, expected one of all atoms, such as "
            f"{EVALUATOR}"
        )
    return network
