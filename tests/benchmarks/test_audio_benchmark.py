"""The benchmark of sound measures a tiny prior from end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import ctrlgen
from ctrlgen.domains.audio.networks import build
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.plugins import load_file
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior

FILE = Path(__file__).parents[2] / "benchmarks" / "audio.py"


def test_calls_and_takes_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = LatentCodec(SpecCodec(hop=64, size=8, depth=0), torch.zeros(8), torch.ones(8))
    flow = Flow(build(features=8, width=8, depth=1, heads=2), CondOT())
    prior = Prior(flow, Frames(21, 8), codec=codec, card=ctrlgen.load("freedoom-music").card)
    monkeypatch.setattr(ctrlgen, "load", lambda name, device: prior)
    out = tmp_path / "new" / "audio.json"
    load_file(FILE, "benchmark").main(takes=2, iterations=1, repeats=1, out=out)
    results = json.loads(out.read_text())
    assert [row["batch"] for row in results["calls"]] == [1, 2]
    for row in results["calls"]:
        assert row["seconds"] > 0 and min(row["share"].values()) > 0
        assert row["seconds_per_clip"] == pytest.approx(row["seconds"] / row["batch"])
    roof = results["roofline"]
    alone, together = roof["network"]
    assert (alone["batch"], together["batch"]) == (1, 2) and together["gflops"] > 0
    assert roof["most_speed_up"] == pytest.approx(roof["plain_gflops"] / alone["gflops"])
    takes = results["takes"]
    assert takes["evaluations_per_take"] > 6 and math.isfinite(takes["speed_up"])
    # Two takes through the gap of one clip: each is what it is alone.
    cost = load_file(FILE, "benchmark").problem(prior, 2)
    assert cost.y.shape == (2, 1, 1280) and not cost.y[..., 576:704].any()
    assert "one by one" in capsys.readouterr().out
