"""Configurations of published priors: they run on a small network as soon as it is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from ctrlgen.costs import NegativePSNR, SquaredError
from ctrlgen.domains.images.files import write_image
from ctrlgen.experiments.optimal_control.images import Misfit
from ctrlgen.experiments.published import images
from ctrlgen.experiments.published.images import main
from ctrlgen.experiments.published.settings import CONFIGURATIONS, TASKS, cost_of
from ctrlgen.methods import NDTM, OTODE, DFlow, OptimalControl
from ctrlgen.optimizers import LBFGS
from ctrlgen.sampling.grids import Uniform

NETWORK = """
import torch

def build():
    return lambda x, t: 0.1 * torch.tanh(x) - x * (t / 999).view(-1, 1, 1, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of 40 x 50, and a network as a user's function."""
    (tmp_path / "images").mkdir()
    draw = torch.Generator().manual_seed(0)
    for i in range(4):
        write_image(tmp_path / "images" / f"{i}.png", torch.rand(3, 40, 50, generator=draw) * 2 - 1)
    (tmp_path / "mine.py").write_text(NETWORK)
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    base = ["--images", str(folder / "images"), "--cache", str(folder / "runs"), "--count", "3"]
    done = CliRunner().invoke(app, [*arguments[:1], *base, *arguments[1:]])
    return done.exit_code, f"{done.output} {done.exception}"


def test_every_contest_has_its_task_and_a_size() -> None:
    for configuration in CONFIGURATIONS.values():
        assert set(configuration.contests) <= set(TASKS)
        assert configuration.size in (128, 256)
        for task in configuration.contests:
            shape = (3, configuration.size, configuration.size)
            operator = TASKS[task].operator(shape, range(1))
            assert operator(torch.zeros(1, *shape)).isfinite().all()


def test_a_preset_meets_the_cost_that_it_belongs_to() -> None:
    operator = TASKS["sr4-noisy"].operator((3, 16, 16), range(2))
    y = torch.zeros(2, 3, 4, 4)
    control = cost_of(OptimalControl.preset("released"), operator, y, 0.05)
    assert isinstance(control, Misfit) and control.form == "norm"
    assert isinstance(cost_of(NDTM.preset("ffhq-sr4"), operator, y, 0.01), SquaredError)
    assert isinstance(cost_of(DFlow(), operator, y, 0.01), NegativePSNR)
    # D-Flow compares H†Hx with H†y where it deblurs, with noise and without (Table 6)
    projected = {
        name: cost_of(DFlow(), task.operator((3, 16, 16), range(2)), torch.zeros(2, 3, 16, 16),
                      task.noise, task.compare).projected  # type: ignore[attr-defined]
        for name, task in TASKS.items() if name in ("deblur", "deblur-noisy", "denoise")
    }  # fmt: skip
    assert projected == {"deblur": True, "deblur-noisy": True, "denoise": False}
    other = cost_of(OTODE(), operator, y, 0.05, "pseudo-inverse")
    assert isinstance(other, NegativePSNR) and not other.projected
    # baselines of arXiv 2502.03686 by data set
    for data, zeta, lam in (("ffhq", 0.3, 1.0), ("imagenet", 1.0, 0.4)):
        contests = CONFIGURATIONS[f"{data}-256"].contests
        assert contests["nonlinear-deblur"]["dps"].rho == zeta  # type: ignore[attr-defined]
        red = contests["sr4"]["red-diff"]
        found = red.weight, red.dispersion, len(red.grid.indices)  # type: ignore[attr-defined]
        assert found == (lam, 1e-4, 50)
        assert red.optimizer.learning_rate == 0.5  # type: ignore[attr-defined]
        blurred, masked = contests["nonlinear-deblur"], contests["random-inpaint-90"]
        assert blurred["red-diff"].weight == masked["red-diff"].weight == 0.25  # type: ignore[attr-defined]


def test_a_network_of_the_users_runs_and_does_not_depend_on_the_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {
        "d-flow": DFlow(optimizer=LBFGS(max_iterations=2)),
        "ot-ode": OTODE(grid=Uniform(3, 0.1)),
    }
    small = replace(CONFIGURATIONS["afhq-cat-256"], size=32, contests={"sr2": quick})
    monkeypatch.setitem(images.CONFIGURATIONS, "afhq-cat-256", small)
    network = ["--network", f"{folder}/mine.py:build", "--time", "999"]
    found = []
    for batch in ("1", "3"):
        out = folder / batch
        code, output = run(
            folder, "afhq-cat-256", *network, "--batch", batch, "--out", str(out),
            "--cache", str(folder / f"cache{batch}"),
        )  # fmt: skip
        assert code == 0, output
        found.append(json.loads((out / "results.json").read_text())["rows"])
        assert "| sr2 | d-flow |" in (out / "table.md").read_text()
    for name in ("sr2--d-flow", "sr2--ot-ode"):
        a, b = (rows[name] for rows in found)
        assert len(a["psnr"]) == 3 and a["diverged"] == 0
        assert a["psnr"] == pytest.approx(b["psnr"], abs=1e-3)
        assert a["evaluations"] == b["evaluations"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ffhq",), "ffhq"),
        (("ffhq-256",), "weights: expected a .safetensors"),
        (("afhq-cat-256",), "network: expected FILE.py:NAME"),
        (("afhq-cat-256", "--network", "nowhere.py:build"), "of a file that exists"),
        (("ffhq-256", "--tasks", "sr7"), "sr7"),
        (("ffhq-256", "--methods", "magic"), "magic"),
    ],
)
def test_bad_input_is_named(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    code, output = run(folder, *arguments)
    assert code != 0 and message in output


def test_a_function_that_is_not_there_and_too_few_images(folder: Path) -> None:
    code, output = run(folder, "afhq-cat-256", "--network", f"{folder}/mine.py:other")
    assert code != 0 and "no function 'other'" in output
    (folder / "images" / "0.png").unlink()
    (folder / "images" / "1.png").unlink()
    code, output = run(folder, "afhq-cat-256", "--network", f"{folder}/mine.py:build")
    assert code != 0 and "expected at least 3" in output
