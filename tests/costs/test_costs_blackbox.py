"""Black boxes: scorers here, in other processes and as commands; what one sample fails by."""

from __future__ import annotations

import copy
import math
import multiprocessing.reduction
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.costs import BlackBoxCost, Command, LevelSet
from ctrlgen.rows.errors import CostError, HopelessError
from ctrlgen.runs.fingerprint import fingerprint
from ctrlgen.runs.spec import SpecError, describe, rebuild

X = torch.tensor([[1.0, 2.0], [0.0, 0.5], [-1.0, 4.0]])

SCORES = """
import os, time

def score(x, shift=None):
    first = float(x[0, 0])
    if first == 7:
        time.sleep(60)
    if first == 8:
        os._exit(3)
    if first < 0:
        raise ValueError(f"{first} is below 0")
    print("what is printed goes nowhere")
    return None if first == 0 else first + float(x.sum()) * (1 if shift is None else float(shift))

word = "no function"
"""


def sums(x: Tensor) -> Tensor:
    """The sum of each; what is below zero raises."""
    if bool((x[:, 0] < 0).any()):
        raise ValueError("below 0")
    return torch.where(x[:, 0] == 0, math.nan, x.sum(1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "mine.py"
    place.write_text(SCORES)
    return place


# ------------------------------------------------------------------ here


def test_a_sample_that_fails_harms_no_other_and_says_why() -> None:
    cost = BlackBoxCost(sums)
    assert cost(X).tolist() == [3.0, math.inf, math.inf]
    assert cost.why(X) == [None, "no number: NaN", "ValueError: below 0"]
    assert (cost.calls, cost.hits, cost.failures) == (3, 0, 2)
    assert cost.reasons == {"no number: NaN": 1, "ValueError: below 0": 1}
    assert not cost.differentiable and not (cost + sums).differentiable


def test_scores_are_remembered_by_content() -> None:
    seen: list[int] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.sum(1)

    cost = BlackBoxCost(watched)
    twice = torch.cat((X, X[:1]))
    assert torch.equal(cost(twice), twice.sum(1)) and seen == [3]
    assert torch.equal(cost.take(torch.tensor([1]))(X[1:2]), X[1:2].sum(1)) and seen == [3]
    assert (cost.calls, cost.hits) == (3, 2)
    assert torch.equal(cost(X.double()), X.double().sum(1)) and seen == [3, 3]  # other bytes
    every = BlackBoxCost(watched, cache=False)
    assert torch.equal(every(twice), twice.sum(1)) and seen[2:] == [4] and every.hits == 0


def test_data_of_samples_follow_them() -> None:
    cost = BlackBoxCost(lambda x, y: (x - y).sum(1), per_sample={"y": X.square()})
    assert cost(X).tolist() == [-2.0, 0.25, -14.0]
    last = torch.tensor([2, 0])
    assert torch.equal(cost.take(last)(X[:1].expand(2, -1)), torch.tensor([-14.0, -2.0]))
    assert cost.hits == 1  # the same signal with the same data
    with pytest.raises(CostError, match="per_sample: expected 1 rows"):
        cost(X[:1])


def test_a_scorer_that_fails_for_all_ends_the_run_and_one_that_works_once_does_not() -> None:
    broken = BlackBoxCost(lambda x: x.no_such_thing, name="mine")
    assert broken(X).isinf().all()
    words = "score: mine failed for all of 8: AttributeError: .*no_such_thing"
    with pytest.raises(HopelessError, match=words):
        broken(torch.randn(5, 2))
    picky = BlackBoxCost(sums)
    picky(X)
    assert picky(-torch.rand(20, 2)).isinf().all()
    silent = BlackBoxCost(lambda x: [None] * len(x))  # it answers
    assert silent(torch.randn(20, 2)).isinf().all()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([1.0], "expected 3 numbers, one per sample, got 1"),
        (torch.zeros(()), "expected 3 numbers, one per sample, got float"),
        (["a", "b", "c"], "expected a number or None per sample, got 'a'"),
        (torch.zeros(3, 2), r"expected a number or None per sample, got \[0.0, 0.0\]"),
    ],
)
def test_an_answer_of_another_shape_is_an_error(found: Any, words: str) -> None:
    with pytest.raises(CostError, match=words):
        BlackBoxCost(lambda x: found)(X)


def test_a_level_of_a_black_box_is_a_black_box() -> None:
    box = BlackBoxCost(sums)
    cost = LevelSet(box, torch.tensor([1.0, 2.0, 3.0]))
    assert not cost.differentiable and cost(X).tolist() == [4.0, math.inf, math.inf]
    assert cost.take(torch.tensor([2]))(X[:1]).tolist() == [0.0] and box.hits == 1
    held = LevelSet(BlackBoxCost(lambda x, y: x[:, 0] * y, per_sample={"y": X[:, 1]}), 1.0)
    assert held.take(torch.tensor([1]))(X[:1]).tolist() == [0.25]
    assert not cg.PropertyCost(box, 1.0, 2.0).differentiable
    assert cg.PropertyCost(box, 0.0, math.inf)(X).isfinite().tolist() == [True, False, False]


# ------------------------------------------------------------------ elsewhere


def test_a_function_in_another_process(file: Path) -> None:
    """One that raises, one without a number, one that hangs; the next has a fresh process."""
    data = {"shift": torch.tensor([2.0, 1.0, 1.0, 1.0, 3.0])}
    x = torch.tensor([[1.0, 2.0], [0.0, 0.5], [-1.0, 4.0], [7.0, 0.0], [2.0, 1.0]])
    cost = BlackBoxCost(f"{file}:score", workers=1, timeout=2.0, per_sample=data)
    begin = time.monotonic()
    assert cost(x).tolist() == [7.0, math.inf, math.inf, math.inf, 11.0]
    assert time.monotonic() - begin < 50
    assert cost.why(x)[1:4] == [
        "no number: None",
        "ValueError: -1.0 is below 0",
        "no answer within 2 s",
    ]
    assert cost(x).tolist()[4] == 11.0 and (cost.calls, cost.hits, cost.failures) == (5, 5, 3)
    again = copy.copy(cost)
    assert again(x)[0] == 7.0 and again.calls == 5  # copies share what is remembered
    cost.close()


def test_the_file_is_looked_at_before_any_compute(file: Path, tmp_path: Path) -> None:
    for wrong in (f"{tmp_path}/none.py:score", f"{file}", f"{file}:a.b", "os:getcwd"):
        with pytest.raises(ValueError, match=r"score: expected FILE.py:NAME of a file that exists"):
            BlackBoxCost(wrong)
    with pytest.raises(ValueError, match=r"score: .* has no function 'word'"):
        BlackBoxCost(f"{file}:word")(X)
    here = BlackBoxCost(f"{file}:score")
    assert here(X[:1]).tolist() == [4.0]
    with pytest.raises(ValueError, match=r"other processes cannot import .*<lambda>"):
        BlackBoxCost(lambda x: x.sum(1), workers=1)
    BlackBoxCost(sums, workers=1)  # its process starts when it is needed


# ------------------------------------------------------------------ commands


@pytest.fixture
def shell() -> Iterator[str]:
    if shutil.which("sh") is None:
        pytest.skip("there is no shell here")
    yield "sh"


def test_a_command_is_given_a_file_and_its_last_number_counts(shell: str) -> None:
    cost = BlackBoxCost(Command([shell, "-c", "echo 7 bytes; wc -c < {file}"]), workers=2)
    x = torch.zeros(2, 3, 5)
    x[1] = 1.0
    assert cost(x).tolist() == [128 + 60] * 2  # the head of a .npy, and its numbers
    table = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])

    def write(file: Path, signal: Tensor) -> None:
        if signal == 4:
            raise ValueError("not 4")
        file.write_text("\n".join(CASES[int(signal)]))

    loud = Command([shell, "{file}"], write)
    cost = BlackBoxCost(loud, timeout=1.0)
    assert cost(table).tolist() == [-0.25, math.inf, math.inf, math.inf, math.inf]
    assert cost.why(table) == [
        None,
        "printed no number",
        "exit code 3: too bad",
        "no answer within 1 s",
        "cannot be written: ValueError: not 4",
    ]


CASES = (
    ["echo energy = -2.5e-1 eV, on 1 core of 2 >&2", "echo energy = -2.5e-1 eV"],
    ["echo none"],
    ["echo too bad >&2", "exit 3"],
    ["sleep 60 & sleep 60"],
)


@pytest.mark.parametrize(
    ("argv", "kind", "words"),
    [
        ("ls {file}", TypeError, "argv: expected a list of texts"),
        (["ls"], ValueError, "argv: expected {file} in it"),
        (["no-such-program", "{file}"], ValueError, "argv: there is no program 'no-such-program'"),
    ],
)
def test_bad_commands_are_refused(argv: Any, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        Command(argv)


@pytest.mark.parametrize(
    ("score", "options", "kind", "words"),
    [
        (3, {}, TypeError, "score: expected a function, FILE.py:NAME or a Command, got int"),
        (sums, {"workers": -1}, ValueError, "workers: expected a positive integer"),
        (sums, {"timeout": 0}, ValueError, "timeout: expected seconds > 0"),
        (sums, {"view": 3}, TypeError, "view: expected a function"),
        (sums, {"per_sample": {"y": 3}}, TypeError, "per_sample: y: expected a tensor"),
        (Command(["ls", "{file}"]), {"view": sums}, ValueError, "a command is given a file"),
    ],
)
def test_bad_settings_are_refused(
    score: Any, options: dict[str, Any], kind: type, words: str
) -> None:
    with pytest.raises(kind, match=words):
        BlackBoxCost(score, **options)


# ------------------------------------------------------------------ runs


def test_it_goes_to_other_processes_without_what_it_remembers(file: Path) -> None:
    cost = BlackBoxCost(f"{file}:score", workers=1, timeout=3.0)
    before = fingerprint(cost)
    here = BlackBoxCost(sums)
    here(X)
    content = multiprocessing.reduction.ForkingPickler.dumps([cost, here])
    sent, other = multiprocessing.reduction.ForkingPickler.loads(content)
    assert fingerprint(sent) == before and other.calls == 0
    assert fingerprint(here) == fingerprint(other)  # nor does its key hold that
    file.write_text(SCORES + "\n# changed\n")
    assert fingerprint(BlackBoxCost(f"{file}:score", workers=1, timeout=3.0)) != before


def test_a_spec_names_functions_and_no_code(file: Path) -> None:
    spec = describe(BlackBoxCost(sums, timeout=3.0))
    with pytest.raises(SpecError, match="no part of ctrlgen"):
        rebuild(spec)
    again = rebuild(spec, trust="tests")
    assert again.score is sums and again.timeout == 3.0
    for cost in (BlackBoxCost(f"{file}:score"), BlackBoxCost(Command(["ls", "{file}"]))):
        with pytest.raises(SpecError, match="names code that runs"):
            describe(cost)
    for made in (
        {"type": "ctrlgen.costs.blackbox:BlackBoxCost", "score": f"{file}:score"},
        {"type": "ctrlgen.runs.scorer_teams:Command", "argv": ["ls", "{file}"]},
        {
            "type": "ctrlgen.runs.scorer_teams:Elsewhere",
            **{"reference": f"{file}:score", "view": None, "workers": 1, "timeout": 1.0},
        },
    ):
        with pytest.raises(SpecError, match="names code that runs"):
            rebuild(made)
