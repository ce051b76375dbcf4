"""Bad input on the command line: exit code 2, the option named, no traceback, nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ctrlgen.domains.images.networks import Velocity
from ctrlgen.domains.molecules.networks import MoleculeVelocity
from ctrlgen.domains.molecules.properties import PROPERTIES

Run = Callable[..., Any]

FILE, CARD, NEVER = "FILE", "CARD", ("none.png", "no folder/x.png", "", ".")
CHLORINE, CROWDED, ION = "CHLORINE", "CROWDED", "ION"
MOLECULES = {
    CHLORINE: "1\n\nCl 0 0 0\n",
    CROWDED: "3\n\nC 0 0 0\nO 0 0 1.2\nC 0 0 0.01\n",
    ION: "1\ncharge=1\nN 0 0 0\n",
}
"""XYZ of molecules that cannot be used."""
NUMBERS = ("x", "", "nan", "1e999", "-1")
RESTORE = {
    "inpaint": ("--centre", "4"),
    "upsample": ("--degrade",),
    "deblur": (),
    "denoise": ("--noise", "0.1"),
}
SHARED = {  # of all restoring commands: option, what it must not be
    "--seeds": ("x", "1,x", "1,1", "-1", "1.5", "", "99999999999999999999"),
    "--samples": ("0", "-1", "x", "1.5"),
    "--noise": ("x", "nan", "-1", "inf"),
    "--device": ("abacus", "cuda:99", "", "meta"),
    "--method": ("magic", "", "blind-ndtm"),
    "--prior": ("imagenet", "none.json", "../x.json", "mnist-classifier", "qm9", ""),
    "--label": ("9", "-1", "x"),
    "--truth": ("none.png", ""),
    "--trust": ("os", "../x", "a b", ""),
    "--evaluations": ("0", "-1", "x"),
    "--init": ("lucky", ""),
    "--target": ("nan", "x"),
    "--iterations": ("-1", "x"),
}
OWN = {
    "inpaint": {
        "--centre": ("0", "-1", "99", "x"),
        "--random": ("1", "-0.1", "nan", "x"),
        "--mask": ("none.png", ""),
    },
    "upsample": {"--factor": ("0", "1", "5", "-2", "x")},
    "deblur": {"--std": ("0", "-1", "nan", "x"), "--boundary": ("mirror", "")},
}
SAMPLE = {
    "--prior": ("imagenet", "none.json", "qm9", "", "mnist-classifier"),
    "-n": ("0", "-1", "x"),
    "--seeds": ("x", "1,1", "-1"),
    "--steps": ("0", "-1", "x"),
    "--label": ("99", "-1", "x"),
    "--device": ("abacus", "meta"),
    "--trust": ("os", "a:b"),
}
MOLECULE = {
    "--property": ("x", "gap", "gap=x", "gap=6", "gap=6kg", "gap=nan", "mass=3eV", "gap=7..6eV"),
    "--weight": ("x", "gap=x", "gap=-1"),
    "--maximise": ("x", "mass", "gap=3kg"),
    "--minimise": ("x",),
    "--formula": ("x", "C0", "Xe2", "C7H10O2Q", "-C"),
    "--element": ("x", "N<", "N<=x", "Xe>=1"),
    "--fragment": ("none.sdf", "x.txt", "", CHLORINE, CROWDED),
    "--scaffold": ("none.sdf", "x.txt", "", CHLORINE, CROWDED),
    "--attach": ("x", "0", "1"),
    "--score": ("x", "qed>=", "qed>=1D", "none.py:f"),
    "--similar": ("none.sdf", CHLORINE, CROWDED),
    "--resemblance": ("-1", "x"),
    "--prior": ("imagenet", "none.json", "mnist"),
    "--guide": ("none", "mnist-classifier", "none.json"),
    "--evaluator": ("none", "mnist-classifier", "qm9"),
    "--number": ("0", "-1", "x"),
    "--seeds": ("x", "1,1", "-1", "1.5"),
    "--steps": ("0", "x"),
    "--search": ("magic", ""),
    "--generations": ("0", "x"),
    "--evaluations": ("-1", "x"),
    "--tolerance": ("x",),
    "--valence": ("-1", "x"),
    "--restarts": ("-1", "x"),
    "--rank": ("x", "none.py:f", "os:system"),
    "--batch": ("0", "x"),
    "--device": ("abacus", "meta"),
    "--out": ("x.txt",),
    "--trust": ("os", "../x"),
}
LONG = {"-n": "--number"}
"""The long name of what is given by a short one."""


def cases() -> Iterator[Any]:
    def case(name: str, option: str, bad: str, *words: str) -> Any:
        return pytest.param(option, (*words, option, bad), id=f"{name} {option} {bad!r}")

    for task, needed in RESTORE.items():
        start = ("image", task, FILE)
        for option, values in {**SHARED, **OWN.get(task, {})}.items():
            mine = () if option in needed or option in ("--random", "--mask") else needed
            card = () if option == "--prior" else ("--prior", CARD)
            yield from (case(task, option, bad, *start, *mine, *card) for bad in values)
    for option, values in SAMPLE.items():
        card = () if option == "--prior" else ("--prior", CARD)
        yield from (case("sample", option, bad, "image", "sample", *card) for bad in values)
    for option, values in MOLECULE.items():
        wish = () if option in ("--property", "--formula") else ("--property", "gap=6.8eV")
        yield from (case("molecule", option, bad, "molecule", "generate", *wish) for bad in values)
    for file in NEVER:
        yield pytest.param("file", ("image", "inpaint", file, "--centre", "4"), id=f"file {file}")
        yield pytest.param("file", ("molecule", "score", file), id=f"score {file}")
    for file in ("none.sdf", CHLORINE, CROWDED, ION):
        words = ("molecule", "optimize", file, "--property", "gap=6.8eV")
        yield pytest.param("file", words, id=f"optimize {file}")
        yield pytest.param("file", ("molecule", "score", file, "--strict"), id=f"strict {file}")
    for cost in ("x", "none.py:f", "no.such:f", ":", "a:", ":b", "a b:c", "os:no_such"):
        yield pytest.param("cost", ("check", cost, "--prior", CARD), id=f"cost {cost}")
    for recipe in ("x", "images/none", "", "../x"):
        yield pytest.param("recipe", ("train", recipe, "--steps", "1"), id=f"recipe {recipe}")
    for words, argument in (
        (("train", "images/mnist"), "budget"),
        (("train", "images/mnist", "--steps", "0"), "steps"),
        (("train", "images/mnist", "--minutes", "-1"), "minutes"),
        (("train", "images/mnist", "--steps", "1", "--data", "none"), "data"),
        (("train", "images/mnist", "--steps", "1", "--threads", "0"), "threads"),
        (("train", "images/mnist", "--steps", "1", "--seed", "-1"), "seed"),
        (("train", "images/mnist", "--steps", "1", "--out", FILE), "out"),
        (("train", "images/mnist", "--steps", "1", "--out", f"{FILE}/x"), "out"),
        (("train", "images/mnist", "--pack", "."), "pack"),
        (("image", "inpaint"), "FILE"),
        (("check",), "COST"),
        (("check", "os:getcwd"), "prior"),
        (("image", "sample", "--nonsense"), "nonsense"),
        (("nonsense",), "nonsense"),
        (("image", "nonsense"), "nonsense"),
        (("methods", "--nonsense"), "nonsense"),
    ):
        yield pytest.param(argument, words, id=" ".join(words))


CASES = list(cases())


@pytest.fixture(autouse=True)
def nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network is evaluated and nothing is written."""

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("the network was evaluated")

    monkeypatch.setattr(Velocity, "forward", refuse)
    monkeypatch.setattr(MoleculeVelocity, "forward", refuse)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    yield
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "grey.png"}


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of MOLECULES."""
    folder = tmp_path_factory.mktemp("molecules")
    for name, text in MOLECULES.items():
        (folder / f"{name.lower()}.xyz").write_text(text)
    return {name: str(folder / f"{name.lower()}.xyz") for name in MOLECULES}


@pytest.mark.parametrize(("argument", "words"), CASES)
def test_every_option(
    ctrlgen: Run, grey_card: Path, grey_file: Path, molecules: dict[str, str], argument: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    known = {FILE: str(grey_file), CARD: str(grey_card), **molecules}
    outcome = ctrlgen(
        *(known.get(word, word.replace(f"{FILE}/", f"{grey_file}/")) for word in words)
    )
    assert outcome.code == 2, (outcome.out, outcome.err)
    assert outcome.out == ""
    name = LONG.get(argument, argument).lstrip("-")
    forms = rf"--{name}\b|\b{name}: "
    if not argument.startswith("-"):  # an argument as usage has it, or the word itself
        forms += rf"|'\{{?{name}\}}?'"
    assert re.search(forms, outcome.err, re.IGNORECASE), outcome.err
    inner = re.match(r"error [\w-]+: ([a-z_]+): ", outcome.err)  # a name that nobody typed
    assert inner is None or inner[1] in PROPERTIES, outcome.err
    assert "Traceback" not in outcome.err and "torch." not in outcome.err.replace("torch.f", "")
    assert outcome.err.count("\n") <= 12


def test_there_are_enough() -> None:
    assert len(CASES) >= 335
