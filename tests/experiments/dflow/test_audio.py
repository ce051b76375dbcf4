"""The audio table from end to end on two short clips and a network of no weights; its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ctrlgen
from ctrlgen.domains.audio.networks import build as network
from ctrlgen.domains.audio.states import Frames, PretrainedCodec
from ctrlgen.experiments.dflow import audio
from ctrlgen.experiments.dflow.audio import clips_of, gathered, main, spent_at, verdicts
from ctrlgen.experiments.dflow.audio_scores import TASKS, Problem, interval, scores
from ctrlgen.experiments.dflow.audio_settings import DEFAULTS, METHODS, PUBLISHED
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import UnknownName

LENGTH = 6400


def clips(count: int = 2) -> torch.Tensor:
    time = torch.arange(LENGTH) / 16000
    hertz = torch.tensor([[330.0], [550.0], [770.0]])[:count]
    noise = torch.randn(count, LENGTH, generator=torch.Generator().manual_seed(0))
    return (0.1 * torch.sin(6.2832 * hertz * time) + 0.01 * noise).unsqueeze(1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name and the card of the embedded prior, over a network of a few weights."""
    card = ctrlgen.load("freedoom-music").card
    frames = LENGTH // 640 + 1
    flow = Flow(network(features=640, width=8, depth=1, heads=2), CondOT())
    prior = Prior(flow, Frames(frames, 640), codec=PretrainedCodec("mdct-16k"), card=card)
    monkeypatch.setattr(ctrlgen, "load", lambda name, device: prior)
    monkeypatch.setattr(audio, "held_out_clips", lambda folder, count: clips(count))


@pytest.mark.usefixtures("tiny")
def test_every_row_is_measured_once_and_drawn(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = {"clips": 2, "tasks": "gap20,x4", "methods": "d-flow-fast,mpgd"}
    options |= {"iterations": 1, "data": tmp_path / "audio"}
    main(**options, out=out, cache=cache)  # type: ignore[arg-type]
    results = json.loads((out / "results.json").read_text())
    names = {"silence", "line", "codec", "d-flow-fast", "mpgd"}
    rows = {f"gap20-{name}" for name in names}
    rows |= {f"x4-{name}" for name in (names - {"silence", "line"}) | {"low-pass"}}
    assert set(results["rows"]) == rows
    for name, row in results["rows"].items():
        assert len(row["lsd"]) == len(row["psnr"]) == len(row["si_sdr"]) == 2
        assert ("seam" in row) == name.startswith("gap")
    assert results["rows"]["gap20-mpgd"]["evaluations"] == 50
    # The codec loses rounding alone, what was observed is put back.
    assert min(results["rows"]["gap20-codec"]["psnr"]) > 90
    silence, ours = (results["rows"][f"gap20-{name}"] for name in ("silence", "d-flow-fast"))
    missing = torch.tensor(ours["psnr"]) - torch.tensor(ours["psnr_missing"])
    assert torch.allclose(missing, torch.full((2,), 6.99), atol=0.01)  # a fifth is missing
    assert min(silence["psnr_observed"]) > 100
    verdict = results["verdicts"]["gap20-d-flow-fast"]
    assert 0 <= verdict["at_goal"] <= 1 and verdict["evaluations"] > 0
    text = (out / "table.md").read_text()
    assert "| gap, 20 % | MPGD |" in text and "0.22 / 44.51" in text
    assert (out / "lsd.png").stat().st_size > 0
    stamps = {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}
    assert len(stamps) == len(rows)
    main(**options, out=out, cache=cache)  # type: ignore[arg-type]
    assert stamps == {file: file.stat().st_mtime_ns for file in cache.rglob("*.json")}


@pytest.mark.parametrize("task", TASKS)
def test_what_is_observed_is_put_back_and_the_truth_is_perfect(task: str) -> None:
    truth = clips()
    problem = Problem.of(task, truth)
    draw = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    assert float(problem.observed(problem.spliced(draw)).min()) > 90
    assert torch.allclose(problem.spliced(truth), truth, atol=1e-5)
    perfect = scores(problem, truth)
    assert max(perfect["lsd"]) == 0 and min(perfect["psnr_observed"]) > 100
    if problem.span is not None:
        start, end = problem.span
        assert end - start == LENGTH * int(task[3:]) // 100
        assert start == (LENGTH - end + start) // 2
        # Outside of the gap every sample is the true one, bit by bit.
        changed = problem.spliced(draw) != truth
        assert not changed[..., :start].any() and not changed[..., end:].any()
        line = problem.trivial()["line"][0, 0]
        steps = line[start - 1 : end + 1].diff()
        assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)
    else:
        assert problem.y.shape[2] == LENGTH // int(task[1:])


def test_rows_of_a_batch_do_not_meet() -> None:
    truth, problem = clips(3), Problem.of("gap10", clips(3))
    x = truth + 0.05
    together = scores(problem, problem.spliced(x))
    alone = Problem.of("gap10", truth[1:2])
    assert together["lsd"][1] == pytest.approx(scores(alone, alone.spliced(x[1:2]))["lsd"][0])
    broken = x.clone()
    broken[0] = torch.nan
    assert scores(problem, problem.spliced(broken))["lsd"][1:] == together["lsd"][1:]


def test_intervals_hold_the_median_and_do_not_lose_what_is_not_finite() -> None:
    values = [float(n) for n in range(21)]
    median, low, high = interval(values)
    assert (median, interval(values)) == (10.0, (median, low, high)) and 4 < low < 10 < high < 16
    assert interval([3.0]) == (3.0, 3.0, 3.0)
    assert interval([1.0, float("nan"), float("nan")])[0] == -float("inf")


def test_evaluations_are_those_of_the_first_visit_to_the_goal() -> None:
    cost = torch.tensor([[-10.0, -41.0], [-42.0, -39.0], [-40.0, -39.0]])
    spent = torch.tensor([[6, 6], [12, 12], [18, 18]])
    run: Any = SimpleNamespace(history={"cost": cost, "evaluations": spent})
    assert spent_at(run, torch.tensor([40.0, 45.0])) == [12, None]


def test_verdicts_are_ratios_and_shares() -> None:
    ours = {"lsd": [1.0, 2.0], "goal": [40.0, 40.0], "psnr_observed": [39.5, 30.0]}
    rows = {
        "gap10-silence": {"lsd": [3.0, 3.0]},
        "gap10-line": {"lsd": [1.0, 1.0]},
        "gap10-d-flow-fast": {**ours, "evaluations": 190.0},
    }
    found = verdicts({"tasks": ["gap10"], "rows": rows})["gap10-d-flow-fast"]
    assert found["lsd_of_trivial"] == pytest.approx(0.5) and found["at_goal"] == 0.5
    assert found["below_line"] is False and "frechet_below" not in found


def test_the_evaluations_of_fast_are_compared_with_those_of_paper() -> None:
    plain = {"lsd": [1.0, 1.0, 1.0], "goal": [40.0] * 3, "psnr_observed": [41.0] * 3}
    fast = {**plain, "evaluations": 190.0, "evaluations_at_goal": [190, 190, 190]}
    paper = {**plain, "evaluations": 6000.0, "evaluations_at_goal": [1900, 950, None]}
    rows = {"gap10-silence": plain, "gap10-d-flow-fast": fast, "gap10-d-flow-paper": paper}
    found = verdicts({"tasks": ["gap10"], "rows": rows})
    assert found["gap10-d-flow-fast"]["evaluations_of_paper"] == pytest.approx(0.1)
    assert "evaluations_of_paper" not in found["gap10-d-flow-paper"]


def test_rows_join_those_of_the_same_clips_and_replace_no_others(tmp_path: Path) -> None:
    key = {"sha256": "a", "clips": 2}
    old = {"x4-mpgd": {"lsd": [1.0]}, "gap10-silence": {"lsd": [2.0]}}
    (tmp_path / "results.json").write_text(json.dumps({**key, "rows": old}))
    new = {"gap10-ndtm": {"lsd": [3.0]}, "gap10-silence": {"lsd": [4.0]}}
    joined = gathered(tmp_path, key, new)
    assert list(joined["rows"]) == ["gap10-silence", "gap10-ndtm", "x4-mpgd"]
    assert joined["rows"]["gap10-silence"] == {"lsd": [4.0]}
    assert joined["tasks"] == ["gap10", "x4"] and joined["methods"] == ["ndtm", "mpgd"]
    assert list(gathered(tmp_path, {**key, "clips": 3}, new)["rows"]) == list(new)[::-1]


def test_music_is_spread_over_the_files_and_at_the_level_of_the_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.ogg").touch()
    (tmp_path / "readme.txt").touch()
    heard: list[tuple[list[str], int]] = []

    def foreign(files: list[Path], each: int) -> torch.Tensor:
        heard.append(([file.name for file in files], each))
        return 0.03 * clips(2)

    monkeypatch.setattr(audio, "foreign_clips", foreign)
    x, source = clips_of(2, tmp_path, [tmp_path])
    assert heard == [(["a.ogg", "c.ogg"], 1)] and source["music"] == ["a.ogg", "c.ogg"]
    assert torch.allclose(x.square().mean((1, 2)).sqrt(), torch.tensor(0.1))
    clips_of(2, tmp_path, [tmp_path / "a.ogg"])
    assert heard[1] == (["a.ogg"], 2)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="music: "):
        clips_of(2, tmp_path, [tmp_path / "none"])


def test_settings_and_names_are_refused_before_any_compute(tmp_path: Path) -> None:
    assert all(len(row) == len(TASKS) for rows in PUBLISHED.values() for row in rows.values())
    assert "d-flow-paper" not in DEFAULTS and len(DEFAULTS) == len(METHODS) - 1 == 7
    for option, message in (("tasks", "tasks: 'x3'"), ("methods", "methods: 'x3'")):
        with pytest.raises(UnknownName, match=message):
            main(**{option: "x3"}, out=tmp_path, cache=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
