"""What `ctrlgen molecule` refuses, before any network is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_molecules import Cards, Command, ethanol

from ctrlgen.domains.molecules import design as designs
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.networks import MoleculeVelocity
from ctrlgen.domains.molecules.regressors import PropertyNetwork

rdkit = pytest.importorskip("rdkit")


@pytest.fixture
def refused(
    ctrlgen: Command, cards: Cards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., str]:
    """The message of a command that must fail before any network is evaluated."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network was evaluated")

    monkeypatch.setattr(MoleculeVelocity, "forward", never)
    monkeypatch.setattr(PropertyNetwork, "forward", never)

    def run(*words: object, prior: Path | None = None) -> str:
        options = list(cards.options)
        if prior is not None:
            options[1] = prior
        outcome = ctrlgen(*words, "-o", "out.sdf", *options)
        assert outcome.code == 2, (outcome.out, outcome.err)
        lines = outcome.err.strip().splitlines()
        assert lines[-1].startswith("error ") and "Traceback" not in outcome.err
        assert not (tmp_path / "out.sdf").exists()
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "colour=3eV"], "property: expected one of alpha, gap"),
        (["-p", "gap=6.8"], "gap: expected a unit"),
        (["-p", "gap=6.8D"], "unit of gap: expected one of meV"),
        (["-p", "gap=7..6eV"], "expected low <= high"),
        (["-p", "gap=6eV", "-p", "gap>=5eV"], "expected each once, got gap twice"),
        (["-p", "gap=60eV"], "mean absolute deviations outside"),
        ([], "nothing is asked for"),
        (["-p", "gap=6.8eV", "--atoms", "30"], "atoms: expected 2 to 9 heavy atoms"),
        (["-p", "gap=6.8eV", "--atoms", "many"], "atoms: expected N or LOW..HIGH"),
        (["--element", "S<=1"], "error element: expected elements H, C, N, O, F, got S"),
        (["--formula", "C6H6Cl"], "error formula: expected elements H, C, N, O, F, got Cl"),
        (["--element", "N<=2", "--formula", "CH4"], "--formula says everything"),
        (["--element", "N<=1", "--element", "N>=2"], "limits on N contradict"),
        (["-p", "gap=6.8eV", "--weight", "mu=2"], "weight: 'mu' is not among"),
        (["-p", "gap=6.8eV", "--weight", "gap"], "weight: expected NAME=NUMBER"),
        (["--maximise", "gap>=9eV"], "gap: expected one trust limit"),
        (["-p", "gap=6.8eV", "--normalise", "paper"], "normalise: expected one of"),
        (["-p", "gap=6.8eV", "--tolerance", "0"], "tolerance: expected a positive"),
        (["-p", "gap=6.8eV", "--seeds", "1,1"], "seeds: expected each once"),
        (["-p", "gap=6.8eV", "--device", "abacus"], "device: 'abacus'"),
        (["-p", "gap=6.8eV", "--rank", "none.py:f"], "rank: expected FILE.py:NAME"),
        (["-p", "gap=6.8eV", "--fragment", "none.sdf"], "fragment: there is no file"),
        (["--formula", "C100H200"], "formula: no neutral molecule"),
        (["--formula", "CH5"], "formula: no neutral molecule"),
        (["--formula", "C2H3"], "formula: no neutral molecule"),
        (["--formula", "C7H10O2", "--atoms", "3"], "takes 9 heavy atoms, the molecules have 3"),
        (["--element", "C>=50"], "element: no neutral molecule"),
        (["--element", "F>=7", "--element", "C<=1"], "element: no neutral molecule"),
    ],
)
def test_generate_refuses(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("generate", *words)


def test_all_atoms_are_three_to_twenty_nine(refused: Callable[..., str], cards: Cards) -> None:
    for wrong in ("2", "30", "5..40"):
        message = refused("generate", "-p", "gap=6eV", "--atoms", wrong, prior=cards.whole)
        assert "atoms: expected 3 to 29 atoms, hydrogens included" in message
    message = refused("generate", "-p", "gap=6eV", "--atoms", "9", prior=cards.whole)
    assert "is of another alphabet than 'qm9'" in message


def test_files_that_are_broken_are_named(refused: Callable[..., str], tmp_path: Path) -> None:
    good = ethanol(tmp_path).read_text()
    (tmp_path / "cut.sdf").write_text(good[: len(good) // 2])
    assert "cut.sdf, record 1" in refused("optimize", "cut.sdf", "-p", "mu=2D")
    lines = good.splitlines()
    lines[4] = "       nan" + lines[4][10:]
    (tmp_path / "nan.sdf").write_text("\n".join(lines) + "\n")
    assert "nan.sdf, record 1" in refused("optimize", "nan.sdf", "-p", "mu=2D")
    (tmp_path / "nan.xyz").write_text("2\n\nO 0 0 0\nH nan 0 1\n")
    assert "finite coordinates" in refused("optimize", "nan.xyz", "-p", "mu=2D")
    (tmp_path / "short.xyz").write_text("5\n\nO 0 0 0\n")
    assert "expected 5 atoms, got 1" in refused("optimize", "short.xyz", "-p", "mu=2D")
    (tmp_path / "sulfur.xyz").write_text("2\n\nS 0 0 0\nO 1.5 0 0\n")
    message = refused("optimize", "sulfur.xyz", "-p", "mu=2D")
    assert "expected elements H, C, N, O, F, got S" in message
    (tmp_path / "lead.txt").write_text("C")
    assert "expected an SDF, MOL, XYZ, PDB or SMILES file" in refused(
        "optimize", "lead.txt", "-p", "mu=2D"
    )
    assert "radius: expected a positive" in refused(
        "optimize", "ethanol.sdf", "-p", "mu=2D", "--radius", 0
    )


def test_a_fragment_larger_than_the_molecules(refused: Callable[..., str], tmp_path: Path) -> None:
    ethanol(tmp_path)
    message = refused("generate", "--fragment", "ethanol.sdf", "--atoms", "2")
    assert "fragment: has 3 heavy atoms, the molecules at most 2" in message


def test_far_targets_are_refused_warned_of_or_allowed(
    ctrlgen: Command, cards: Cards, refused: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match="--far overrides"):
        wish_of(["gap=30eV"]).sizes("qm9", range(3, 30))
    _, said = wish_of(["gap=30eV"], far=True).sizes("qm9", range(3, 30))
    assert "lies" in said[0] and "deviations outside" in said[0]
    _, said = wish_of(["gap=11.5eV"]).sizes("qm9", range(15, 30))
    assert len(said) == 1
    _, said = wish_of(["gap=6.8eV"]).sizes("qm9", range(15, 30))
    assert said == []
    _, said = wish_of(["gap=9eV", "homo=-5eV", "lumo=0eV"]).sizes("qm9", range(15, 30))
    assert "Mahalanobis" in said[0]


def test_a_missing_extra_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.rows.errors import MissingExtra

    def missing(module: str, extra: str) -> None:
        raise MissingExtra(module, extra)

    monkeypatch.setattr(designs, "require", missing)
    assert 'pip install "ctrlgen[molecules]"' in refused("generate", "-p", "gap=6.8eV")
