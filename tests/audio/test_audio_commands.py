"""`ctrlgen audio ...` on files, with a small prior that has learned nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.domains.audio.files import Recording, read, write
from ctrlgen.domains.audio.restoration import Fill

Audio = Callable[..., int]


def test_inpaint_writes_what_it_says(audio: Audio, wave: Path, card: str, capsys: Any) -> None:
    out = wave.with_name("out.wav")
    quick = ("--prior", card, "--iterations", 1)
    assert audio("inpaint", wave, "--gap", "0.5-0.55", "-o", out, "--json", *quick) == 0
    content = json.loads(capsys.readouterr().out)
    (take,) = content["takes"]
    assert take["gaps_s"] == [[0.5, 0.55]] and take["file"] == str(out)
    assert take["rows"][0]["evaluations"] > 0
    folder = wave.parent / content["folder"]
    assert json.loads((folder / "result.json").read_text())["takes"] == content["takes"]
    assert (folder / "report.html").is_file() and content["complete"]
    before, after = read(wave), read(out)
    changed = (before.samples != after.samples)[0].nonzero().flatten()
    assert int(changed.min()) >= 8000 and int(changed.max()) < 8800


def test_takes_and_labels_and_a_refusal_to_overwrite(
    audio: Audio, wave: Path, card: str, capsys: Any
) -> None:
    file = wave.with_name("labels.txt")
    file.write_text("0.2\t0.22\tx\n")
    words = ("inpaint", wave, "--labels", file, "--takes", 2, "--prior", card)
    words = (*words, "--preset", "paper", "--iterations", 0)
    words = (*words, "-o", wave.with_name("out.wav"))
    assert audio(*words) == 0
    assert wave.with_name("out-1.wav").is_file() and wave.with_name("out-2.wav").is_file()
    assert audio(*words) == 2
    assert "out-1.wav is there" in capsys.readouterr().err.replace("\n", "")
    assert audio(*words, "--overwrite") == 0


def test_a_dry_run_writes_nothing(audio: Audio, wave: Path, card: str, capsys: Any) -> None:
    before = sorted(wave.parent.iterdir())
    assert audio("inpaint", wave, "--gap", "0.5-0.55", "--dry-run", "--prior", card) == 0
    assert "1 rows, at most" in capsys.readouterr().out
    assert sorted(wave.parent.iterdir()) == before


def test_a_folder_goes_on_after_a_file_that_fails(
    audio: Audio, wave: Path, card: str, capsys: Any
) -> None:
    folder = wave.parent / "songs"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"no sound")
    (folder / "b.wav").write_bytes(wave.read_bytes())
    (folder / "notes.txt").write_text("not a file of sound")
    quick = ("--prior", card, "--preset", "paper", "--iterations", 0)
    assert audio("inpaint", folder, "--gap", "0.5-0.55", *quick) == 1
    run = wave.parent / "runs" / "inpaint-songs"
    assert (run / "b.wav").is_file() and (run / "report.html").is_file()
    told = capsys.readouterr()
    assert "refused: file: " in told.out and "no sound file" in told.err
    content = json.loads((run / "result.json").read_text())
    assert [each["file"] for each in content["refused"]] == ["a.wav"]
    assert [Path(take["source"]).name for take in content["takes"]] == ["b.wav"]


def test_degrade_makes_what_the_others_take(audio: Audio, wave: Path, card: str) -> None:
    low, holed = wave.with_name("low.wav"), wave.with_name("holed.wav")
    assert audio("degrade", wave, "--rate", 8000, "-o", low) == 0
    assert read(low).rate == 8000
    assert audio("degrade", wave, "--gap", "0.1-0.15", "-o", holed) == 0
    samples = read(holed).samples
    assert not bool(samples[:, 1600:2400].any()) and bool(samples[:, :1600].any())
    quick = ("--prior", card, "--preset", "paper", "--iterations", 0)
    assert audio("upsample", low, "-o", wave.with_name("wide.wav"), *quick) == 0
    assert read(wave.with_name("wide.wav")).rate == 16000
    assert audio("inpaint", holed, "--auto-gaps", "-o", wave.with_name("f.wav"), *quick) == 0
    assert audio("extend", wave, "--seconds", 0.1, "-o", wave.with_name("long.wav"), *quick) == 0
    assert read(wave.with_name("long.wav")).samples.shape == (1, 17600)


def test_sample_draws_windows(audio: Audio, card: str, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    assert audio("sample", "-n", 2, "--prior", card, "--steps", 2, "-o", out) == 0
    first, second = (read(out / f"000{i}.wav").samples for i in range(2))
    assert first.shape == (1, 6400) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gap", "0.9-1.5"), "lies outside of the file"),
        (("--gap", "0.5-0.5"), "end after the start"),
        (("--gap", "0.1-0.2", "--gap", "0.15-0.25"), "overlaps the next"),
        (("--gap", "0.1-0.9"), "at most 0.2 s"),
        (("--gap", "one-two"), "expected moments"),
        (("--auto-gaps",), "no run of zeros"),
        ((), "exactly one of --gap"),
        (("--gap", "0.1-0.2", "--auto-gaps"), "exactly one of --gap"),
        (("--gap", "0.1-0.2", "--preset", "slow"), "preset: expected one of"),
        (("--gap", "0.1-0.2", "-o", "x.flac"), "ends in .wav"),
        (("--gap", "0.1-0.2", "--prior", "mnist"), "prior: expected one of audio"),
        (("--gap", "0.1-0.2", "--prior", "nothing"), "prior"),
        (("--gap", "0.1-0.2", "--fade", "-5"), "fade"),
    ],
)
def test_bad_input_is_refused_before_any_compute(
    audio: Audio,
    wave: Path,
    card: str,
    words: tuple[str, ...],
    said: str,
    capsys: Any,
    monkeypatch: Any,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(Fill, "__call__", never)
    prior = () if "--prior" in words else ("--prior", card)
    assert audio("inpaint", wave, *words, *prior) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_bad_files_are_refused(
    audio: Audio, wave: Path, card: str, tmp_path: Path, capsys: Any
) -> None:
    rest = ("--gap", "0.1-0.15", "--prior", card)
    empty, film, nan = tmp_path / "empty.wav", tmp_path / "film.mp4", tmp_path / "nan.wav"
    empty.write_bytes(b"")
    film.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200))
    bad = torch.full((1, 16000), math.nan, dtype=torch.float64)
    import soundfile

    soundfile.write(nan, bad[0].numpy(), 16000, subtype="FLOAT")
    silent = write(tmp_path / "silent.wav", Recording(torch.zeros(1, 16000), 16000))
    for file, said in (
        (empty, "no sound file"),
        (film, "no sound file that can be read"),
        (film, "take the sound out of it: ffmpeg -i film.mp4 film.wav"),
        (nan, "are no numbers"),
        (silent, "it is silent"),
        (tmp_path / "missing.wav", "is not there"),
    ):
        assert audio("inpaint", file, *rest) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.wav").write_bytes(b"")
    assert audio("inpaint", tmp_path / "all", *rest) == 2
    assert "none of the 1 files of" in " ".join(capsys.readouterr().err.split())
    for command in (("upsample",), ("declip",), ("extend", "--seconds", 0.1)):
        assert audio(*command, silent, "--prior", card) == 2
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
    capsys.readouterr()
    assert audio("inpaint", wave, *rest, "-o", wave, "--overwrite") == 2
    assert "which is read" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("upsample", "--rate", 8000), "rate: expected at least 16000 Hz, that of the prior"),
        (("extend", "--seconds", 0.5), "seconds: expected up to 0.2 s, half of what the prior"),
        (("extend", "--seconds", 0), "seconds: expected up to"),
        (("declip", "--threshold", 2.0), "threshold: expected an amplitude in (0, 1]"),
        (("declip", "--threshold", 0.9), "threshold: no two samples in a row"),
        (("inpaint", "--gap", "0.1-0.31"), "the prior hears 0.4 s at a time and needs half of it"),
        (("inpaint", "--gap", "@100-@100"), "expected an end after the start"),
        (("inpaint", "--gap", "0.1-0.15", "--shard", "1/2"), "shard: needs --out"),
    ],
)
def test_bad_wishes_are_refused(
    audio: Audio, wave: Path, card: str, words: tuple[object, ...], said: str, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Fill, "__call__", lambda *_, **__: pytest.fail("computed"))
    task, *more = words
    if task == "upsample":
        write(wave, Recording(read(wave).samples[:, ::2], 8000))
    assert audio(task, wave, *more, "--prior", card) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "out", ["/proc/nothing/x.wav", "/proc/nothing", "locked/x.wav", "locked/x"]
)
def test_places_that_cannot_be_written_are_found_before_any_compute(
    audio: Audio, wave: Path, card: str, out: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(Fill, "__call__", lambda *_, **__: pytest.fail("computed"))
    Path("locked").mkdir()
    allowed = os.access
    monkeypatch.setattr(  # root may write anywhere
        os, "access", lambda path, mode: not str(path).endswith("locked") and allowed(path, mode)
    )
    for words in (
        ("inpaint", wave, "--gap", "0.1-0.15", "--prior", card),
        ("sample", "--prior", card),
        ("degrade", wave, "--clip", 0.1),
    ):
        if words[0] == "degrade" and not out.endswith(".wav"):
            continue
        assert audio(*words, "-o", out) == 2
        told = capsys.readouterr().err
        assert told.startswith("error out: cannot write"), told
        assert len(told.splitlines()) == 1


def test_the_missing_extra_is_named(
    audio: Audio, wave: Path, card: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)  # as where it is not installed
    for words in (
        ("inpaint", wave, "--gap", "0.1-0.15", "--prior", card),
        ("sample", "--prior", card, "-o", "drawn"),
        ("degrade", wave, "--clip", 0.1, "-o", "x.wav"),
    ):
        assert audio(*words) != 0
        told = " ".join(capsys.readouterr().err.split())
        assert 'soundfile is needed for this: pip install "ctrlgen[audio]"' in told
    assert not Path("drawn").exists() and not Path("x.wav").exists()


def test_an_interruption_writes_the_best_so_far(
    audio: Audio, wave: Path, card: str, capsys: Any, monkeypatch: Any
) -> None:
    from ctrlgen.domains.audio.spectral import SpecCodec

    calls = {"number": 0}
    plain = SpecCodec.decode

    def decode(self: SpecCodec, z: Any, *rest: Any, **named: Any) -> Any:
        calls["number"] += bool(z.requires_grad)
        if calls["number"] == 4:
            raise KeyboardInterrupt
        return plain(self, z, *rest, **named)

    monkeypatch.setattr(SpecCodec, "decode", decode)
    out = wave.with_name("out.wav")
    gaps = ("--gap", "0.2-0.22", "--gap", "0.5-0.55", "--batch", 1)
    assert audio("inpaint", wave, *gaps, "-o", out, "--prior", card, "--fit", 90) == 130
    content = json.loads((wave.parent / "runs/inpaint-in/result.json").read_text())
    (take,) = content["takes"]
    assert take["rows"][0]["objective_calls"] > 0 and take["rows"][1]["status"] == "not begun"
    assert not content["complete"] and take["status"] == "running"
    samples = read(out).samples
    assert bool(samples[:, 3360].any()) and not bool(samples[:, 8200:8600].any())
    said = " ".join(capsys.readouterr().err.split())
    assert "interrupted; 1 of 2 rows are in" in said and "ctrlgen resume" in said
