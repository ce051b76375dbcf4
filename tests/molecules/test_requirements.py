"""What is asked of molecules: words, one cost of all of it, sizes, verdicts; and in Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_molecules import Cards, ethanol

from ctrlgen.domains.molecules import judges
from ctrlgen.domains.molecules.columns import interval_text
from ctrlgen.domains.molecules.composition import parse_formula, possible_sizes
from ctrlgen.domains.molecules.design import Designer, design
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.requirements import Wish, parse_atoms, parse_extreme
from ctrlgen.domains.molecules.scoring import score
from ctrlgen.domains.molecules.sdf import read_sdf
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import join
from ctrlgen.domains.molecules.verdicts import outside, verdicts

rdkit = pytest.importorskip("rdkit")


def test_a_fragment_an_extreme_and_a_likeness_are_one_cost(cards: Cards, tmp_path: Path) -> None:
    wish = wish_of(
        ["mu<=2D"], ["gap=2"], ["gap"], fragment=ethanol(tmp_path), similar=ethanol(tmp_path)
    )
    designer = Designer(
        wish, str(cards.prior), atoms="3..5", guide=str(cards.guide),
        evaluator=str(cards.evaluator),
    )  # fmt: skip
    counts = torch.tensor([3, 5])
    signal = designer.prior.bind(counts=counts).sample([0, 1])
    cost = wish.cost(designer.guide, designer.name, counts)
    value = cost(signal)
    assert value.shape == (2,) and bool(value.isfinite().all())
    alone = wish.cost(designer.guide, designer.name, counts[1:])(signal[1:])
    assert torch.allclose(cost.take(torch.tensor([1]))(signal[1:]), value[1:])
    assert torch.allclose(alone, value[1:])
    limits = wish.intervals("qm9-heavy", counts)["gap"][0]
    assert limits[0] > 9000  # of small molecules


def test_a_molecule_without_the_fragment_is_not_done(cards: Cards, tmp_path: Path) -> None:
    """Where nothing but a fragment is asked, a whole molecule without it starts again."""
    wish = wish_of(None, fragment=ethanol(tmp_path))
    counts = torch.tensor([3, 3, 3])
    positions, classes, _ = tensors([read_sdf(tmp_path / "ethanol.sdf")[0].mol], "qm9-heavy")
    own = join(positions, classes, 14)
    bent, other = own.clone(), own.clone()
    bent[0, 0, :3] += 1.0
    other[0, 2, 3:] = own[0, 0, 3:]  # a carbon for the oxygen
    aim = wish.aim(None, "qm9-heavy", counts)
    assert aim is not None and aim(torch.cat((own, bent, other))).tolist() == [0, 1, 1]
    assert Designer(wish, str(cards.prior)).task().aim is not None
    both = wish_of(["mu=2D"], fragment=ethanol(tmp_path))
    guide = judges.regressor(str(cards.guide))
    alone = wish_of(["mu=2D"]).cost(guide, "qm9-heavy", counts[:1])(bent)
    aim = both.aim(guide, "qm9-heavy", counts[:1])
    assert aim is not None and torch.allclose(aim(bent), alone + 1)


def test_in_python_it_takes_three_lines(cards: Cards) -> None:
    designed = design(
        "gap=6.8eV", number=2, prior=str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator), settings=Settings(steps=2, iterations=1), atoms="4",
    )  # fmt: skip
    assert len(designed.mols) == len(designed.rows) == 2
    assert designed.result.network.forward > 0
    assert repr(designed).startswith("Designed(2 molecules, ") and "\n" not in repr(designed)
    assert repr(designed.table) == "Table(2 molecules)"


def test_possible_sizes_of_molecules() -> None:
    def sizes(text: str, name: str) -> list[int]:
        return possible_sizes(parse_formula(text), name)

    assert sizes("C7H10O2", "qm9-heavy") == [9] and sizes("C7H10O2", "qm9") == [19]
    assert sizes("CH4", "qm9-heavy") == [1] and sizes("C2H7", "qm9") == []
    assert sizes("CF4", "qm9") == [5] and sizes("CF5", "qm9") == []
    assert possible_sizes({"N": (2, 3)}, "qm9-heavy") == list(range(2, 10))


def test_verdicts_follow_structure_and_networks(molecule: Callable[[str], Any]) -> None:
    given = [molecule("CCO"), molecule("CCC"), molecule("CC(O)C")]
    positions, classes, counts = tensors(given)
    signals = join(positions, classes, 5)

    def network(x: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 6), 6800.0)

    scores = score(signals, "qm9", guide=network, evaluator=network, mols=given)
    wish = wish_of(["gap=6.8eV"], formula="C2H6O")
    first, second, third = verdicts(wish, "qm9", scores, signals, counts, 0.05)
    assert first == {
        "satisfied (guide)": True, "satisfied (evaluator)": True, "composition": True
    }  # fmt: skip
    assert not second["satisfied (guide)"] and not third["composition"]
    far = verdicts(wish_of(["gap=7eV"]), "qm9", scores, signals, counts, 0.05)
    assert not far[0]["satisfied (guide)"] and far[0]["satisfied (evaluator)"]
    piece = verdicts(Wish(fragment=given[0]), "qm9", scores, signals, counts, 0.05)
    assert [row["fragment"] for row in piece] == [True, False, True]
    alike = verdicts(Wish(like=given[0]), "qm9", scores, signals, counts, 0.05)
    assert alike[0]["similarity"] == 1 and alike[0]["shape similarity"] == pytest.approx(
        1, abs=1e-3
    )
    assert alike[1]["similarity"] < 1
    blind = score(signals, "qm9", guide=network, mols=given)
    (unknown, *_) = verdicts(wish_of(["gap=6.8eV"]), "qm9", blind, signals, counts, 0.05)
    assert unknown["satisfied (guide)"] and unknown["satisfied (evaluator)"] is None


def test_words_are_read() -> None:
    assert parse_atoms(None, "qm9") == range(3, 30)
    assert parse_atoms("5..7", "qm9-heavy") == range(5, 8)
    assert parse_extreme("gap") == ("gap", None) and parse_extreme("gap=9eV") == ("gap", 9000.0)
    assert outside(3.0, 1.0, 2.0) == 1 and outside(0.5, 1.0, 2.0) == 0.5
    assert outside(1.5, 1.0, 2.0) == 0 and math.isnan(outside(math.nan, 1.0, 2.0))
    assert interval_text("gap", 6000, 7000) == "6000..7000"
    with pytest.raises(ValueError, match="guide: needed for gap"):
        Wish(largest={"gap": None}).cost(None, "qm9", torch.tensor([5]))
