"""The public surface: every name is there, is imported on demand, and the first lines run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import ctrlgen as cg
from ctrlgen.methods import catalogue


def test_every_name_is_there_and_listed() -> None:
    assert sorted(cg.__all__) == sorted([*dir(cg), "__version__"])
    for name in cg.__all__:
        assert getattr(cg, name) is not None
    for package in (cg.audio, cg.images, cg.molecules):
        assert sorted(package.__all__) == sorted([*dir(package), "domain"])
        assert all(hasattr(package, name) for name in package.__all__)


def test_every_method_is_a_name() -> None:
    assert {kind.__name__ for kind in catalogue.NAMES.values()} <= set(cg.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ctrlgen' has no attribute 'DFlo'"):
        cg.DFlo  # noqa: B018


def test_the_import_alone_takes_no_torch() -> None:
    code = "import sys, ctrlgen; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_first_lines_run() -> None:
    prior = cg.load("mnist")
    digits = cg.images.held_out("mnist", 2).images
    blur = cg.images.SuperResolution(2)
    problem = cg.InverseProblem(blur, blur.measure(digits), truth=digits)
    result = cg.solve(prior, problem, method="ddrm", evaluations=6)
    assert result.samples.shape == digits.shape and result.seeds.tolist() == [0, 1]
    same = cg.solve(prior, problem, problem.method("ddrm", evaluations=6), seeds=[0, 1])
    assert torch.equal(same.samples, result.samples)
    head, *lines = result.table().splitlines()
    assert head.split() == ["seed", "cost", "evaluations", "backward", "status"]
    assert [line.split()[0] for line in lines] == ["0", "1"] and "finished" in lines[0]


def test_one_measurement_serves_many_samples() -> None:
    prior = cg.load("mnist")
    digits = cg.images.held_out("mnist", 1).images
    problem = cg.InverseProblem.of(cg.images.Denoise(), digits, 0.2, [5])
    result = cg.solve(prior, problem, "ddrm", evaluations=5, seeds=range(3))
    assert len(result) == 3
    with pytest.raises(ValueError, match="seeds: expected 2, one per measurement, got 3"):
        two = cg.InverseProblem.of(cg.images.Denoise(), digits.expand(2, -1, -1, -1), 0.2, [5, 6])
        cg.solve(prior, two, "ddrm", seeds=range(3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"operator": 3}, TypeError, "operator: expected an Operator, got int"),
        ({"y": [1.0]}, TypeError, "y: expected a floating point tensor, got list"),
        ({"noise": -1.0}, ValueError, "noise: expected a standard deviation >= 0, got -1.0"),
        ({"truth": torch.zeros(3, 1, 4, 4)}, ValueError, "truth: expected 2 signals, one per"),
        ({"compare": "both"}, ValueError, "compare: expected one of"),
    ],
)
def test_a_problem_that_cannot_be(change: dict, error: type[Exception], message: str) -> None:
    fields = {"operator": cg.images.Denoise(), "y": torch.zeros(2, 1, 4, 4)}
    with pytest.raises(error, match=message):
        cg.InverseProblem(**{**fields, **change})


def test_what_cannot_be_solved_is_said_before_any_compute() -> None:
    prior = cg.load("mnist")
    problem = cg.InverseProblem(cg.images.NonlinearBlur(), torch.zeros(1, 1, 28, 28))
    with pytest.raises(TypeError, match="problem: expected an InverseProblem, got NegativePSNR"):
        cg.solve(prior, cg.NegativePSNR(problem.operator, problem.y))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method: ddrm needs a linear operator"):
        cg.solve(prior, problem, "ddrm")
    with pytest.raises(ValueError, match="evaluations: is for a method by name"):
        cg.solve(prior, problem, cg.DPS(), evaluations=10)
    blur = cg.InverseProblem(
        cg.images.GaussianBlur(1.0), torch.zeros(1, 1, 28, 28), compare="pseudo-inverse"
    )
    with pytest.raises(ValueError, match="compare: 'pseudo-inverse' is for d-flow"):
        cg.solve(prior, blur, "dps")


def test_a_target_in_decibels() -> None:
    assert cg.psnr(40) == -40.0
