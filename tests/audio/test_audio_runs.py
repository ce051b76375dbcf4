"""`ctrlgen audio ...` as runs: what a kill leaves, what fails, and what is no number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording, read, write
from ctrlgen.domains.audio.filling import Rows, Source
from ctrlgen.domains.audio.networks import FrameVelocity
from ctrlgen.domains.audio.restoration import Fill
from ctrlgen.report.reading import read as sections_of

Audio = Callable[..., int]

QUICK = ("--preset", "paper", "--iterations", 1)
"""Twelve evaluations to the start, and a step."""


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def untimed(content: dict[str, Any]) -> list[dict[str, Any]]:
    for take in content["takes"]:
        for row in take["rows"]:
            del row["seconds"]
    return content["takes"]


@pytest.fixture()
def songs(wave: Path) -> Path:
    """Two files of another rate and number of channels, and one that is none."""
    folder = wave.parent / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(wave.read_bytes())
    (folder / "b.flac").write_bytes(b"no sound")
    x = read(wave).samples
    stereo = torch.cat([x, x.roll(9, 1)])
    write(folder / "c.wav", Recording(stereo, 22050, "WAV", "PCM_24"))
    return folder


def test_a_folder_that_was_killed_goes_on(audio: Audio, songs: Path, card: str) -> None:
    """With what SIGKILL leaves, finished units and a file half written, by other workers."""
    run = songs.parent / "run"
    words = ("inpaint", songs, "--gap", "0.2-0.21", "--takes", 2, "--prior", card)
    assert audio(*words, *QUICK, "--batch", 2, "-o", run) == 1  # b.flac
    content, names = written(run), ["a-1.wav", "a-2.wav", "c-1.wav", "c-2.wav"]
    assert [take["file"] for take in content["takes"]] == names and content["complete"]
    before = {name: (run / name).read_bytes() for name in names}
    assert len(set(before.values())) == 4
    assert len(list((run / "shards").glob("*.jsonl"))) == 3  # mid and side of two takes, and mono
    for file in (*before, "result.json", "shards/000001.jsonl", "shards/000001.safetensors"):
        (run / file).unlink()
    (run / "shards" / ".000001.jsonl.partial").write_text("{")
    assert audio("resume", run, "--workers", 1, group=None) == 0
    assert {name: (run / name).read_bytes() for name in names} == before
    again = written(run)
    assert untimed(again) == untimed(content) and again["refused"] == content["refused"]
    (section,) = sections_of(run)
    assert [sample.metrics["file"] for sample in section.samples] == ["a.wav"] * 2 + ["c.wav"] * 2
    tracks = [[t["name"] for t in sample.panel["tracks"]] for sample in section.samples]
    assert tracks == [["without a prior", f"seed {seed}"] for seed in (0, 1, 0, 1)]
    assert "b.flac" in section.warnings[0]


def test_a_file_alone_is_that_of_its_folder(audio: Audio, songs: Path, card: str) -> None:
    words = ("--gap", "0.2-0.21", "--prior", card, *QUICK)
    out = songs.parent / "alone.wav"
    assert audio("inpaint", songs, *words, "-o", songs.parent / "run") == 1
    assert audio("inpaint", songs / "c.wav", *words, "-o", out) == 0
    alone, among = read(out).samples, read(songs.parent / "run" / "c.wav").samples
    torch.testing.assert_close(alone, among, atol=1e-4, rtol=0)


def test_a_file_that_raises_leaves_the_others(
    audio: Audio, songs: Path, card: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Fill.__call__

    def broken(self: Fill, prior: Any, cost: Any, *, seeds: Any, **options: Any) -> Any:
        if 2 in torch.as_tensor(seeds).tolist():  # the first row of the third take
            raise RuntimeError("not this one")
        return plain(self, prior, cost, seeds=seeds, **options)

    monkeypatch.setattr(Fill, "__call__", broken)
    run = songs.parent / "run"
    (songs / "c.wav").unlink()
    words = ("inpaint", songs, "--gap", "0.2-0.21", "--prior", card, *QUICK)
    assert audio(*words, "--takes", 3, "-o", run) == 1
    takes = written(run)["takes"]
    assert [take["file"] for take in takes] == ["a-1.wav", "a-2.wav", None]
    assert takes[2]["reason"] == "RuntimeError: not this one"
    assert "a.wav, seed 2: RuntimeError: not this one" in capsys.readouterr().err


def test_rows_know_their_files(wave: Path) -> None:
    sources = [Source(wave, "a", (0, 1)), Source(wave, "b", (0,)), Source(wave, "c", (0, 1, 2))]
    rows = Rows("inpaint", sources, (), (16000, 6400), 2)
    places = [tuple(place) for place in rows.places()]
    assert places == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0),
        (2, 0, 0), (2, 0, 1), (2, 0, 2), (2, 1, 0), (2, 1, 1), (2, 1, 2),
    ]  # fmt: skip
    some = rows.take(torch.tensor([9, 4, 0]))
    assert [tuple(place) for place in some.places()] == [places[9], places[4], places[0]]


def test_files_of_several_rates_are_one_run(audio: Audio, wave: Path, card: str) -> None:
    folder, x = wave.parent / "calls", read(wave).samples
    for rate in (4000, 8000):
        write(folder / f"{rate}.wav", Recording(x[:, : rate // 2], rate))
    run = wave.parent / "run"
    assert audio("upsample", folder, "--prior", card, *QUICK, "-o", run) == 0
    shapes = {read(run / f"{rate}.wav").samples.shape for rate in (4000, 8000)}
    assert shapes == {(1, 8000)} and len(list((run / "shards").glob("*.jsonl"))) == 1


@pytest.mark.parametrize("lost", [[1], [0, 1, 2]])
def test_a_draw_that_is_no_number_says_so_with_its_step(
    audio: Audio, card: str, tmp_path: Path, lost: list[int], capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plain, starts = FrameVelocity.forward, {}

    def singular(self: FrameVelocity, x: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """Of the draws whose source is that of a lost seed, from t = 0.5 on."""
        value = plain(self, x, t, **conditions)
        if float(t.max()) == 0:
            starts["x"] = x.detach()
        gone = torch.zeros(len(x), dtype=torch.bool)
        gone[[row for row in lost if row < len(x)] if len(x) == 3 else slice(None)] = True
        return torch.where(gone[:, None, None] & (t.reshape(-1, 1, 1) > 0.4), torch.nan, value)

    monkeypatch.setattr(FrameVelocity, "forward", singular)
    out = tmp_path / "drawn"
    assert audio("sample", "-n", 3, "--prior", card, "--steps", 2, "-o", out) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"from step 2 of 2 (t = 1) on; seeds {', '.join(map(str, lost))}" in told
    if len(lost) == 3:
        assert not out.exists()
        return
    rows = written(out)["samples"]
    assert [row["file"] for row in rows] == ["0000.wav", None, "0002.wav"]
    assert rows[1]["status"].startswith("diverged") and rows[1]["step"] == 2
    assert sorted(file.name for file in out.glob("*.wav")) == ["0000.wav", "0002.wav"]
    assert not written(out)["complete"] and written(out)["lost"][0]["seed"] == 1
