"""Archives, variations of scores, and pieces rendered from them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import mido
import numpy as np
import pytest
import torch

from ctrlgen.domains.audio import data, synthesis
from ctrlgen.domains.audio.arrangement import Variation, arrange, variation
from ctrlgen.domains.audio.synthesis import levelled
from ctrlgen.domains.audio.wad import lumps, scores

PLAYER = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not synthesis.SOUND_FONT.is_file(),
    reason="needs fluidsynth and fluid-soundfont-gm of Debian",
)


def events(score: bytes) -> list[mido.Message]:
    return [event for track in mido.MidiFile(file=io.BytesIO(score)).tracks for event in track]


def test_an_archive_gives_its_lumps_and_each_score_once(wad: Path, score: bytes) -> None:
    assert [lump.name for lump in lumps(wad)] == ["D_ONE", "PLAYPAL", "D_TWO"]
    assert [(lump.name, lump.content) for lump in scores(wad, wad)] == [("D_ONE", score)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"IWAD",
        b"nothing of this kind",
        b"IWAD\x01\x00\x00\x00\x0c\x00\x00\x00",
        b"IWAD\xff\xff\xff\xff\x0c\x00\x00\x00",
        b"IWAD\x01\x00\x00\x00\x0c\x00\x00\x00"
        + b"\xff\x00\x00\x00\xff\x00\x00\x00"
        + b"NAME\0\0\0\0",
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.wad"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="file"):
        list(lumps(file))


def test_variation_zero_is_the_score_and_others_are_of_their_place_alone() -> None:
    assert variation(0, 3, 0) == Variation()
    one = variation(0, 3, 1)
    assert one == variation(0, 3, 1)
    assert one != variation(0, 3, 2)
    assert one != variation(0, 4, 1)
    assert one != variation(1, 3, 1)
    many = [variation(0, track, number) for track in range(20) for number in range(1, 20)]
    assert {change.semitones for change in many} == set(range(-5, 7))
    assert all(0.8 <= change.tempo <= 1.25 for change in many)
    assert all(0 <= program < 8 for change in many for program in change.programs)
    muted = sum(len(change.muted) for change in many) / (16 * len(many))
    assert muted == pytest.approx(0.15, abs=0.02)


def test_an_arrangement_changes_key_program_speed_and_no_drum(score: bytes) -> None:
    change = Variation(semitones=3, tempo=1.25, programs=(4, *[0] * 15))
    arranged = arrange(score, change)
    assert mido.MidiFile(file=io.BytesIO(arranged)).length == pytest.approx(0.5 / 1.25, rel=1e-4)
    notes = {event.channel: event.note for event in events(arranged) if event.type == "note_on"}
    assert notes == {0: 63, 9: 36}
    programs = [event.program for event in events(arranged) if event.type == "program_change"]
    assert programs == [1]  # 5 + 4 within the family 0 to 7


def test_a_muted_channel_has_no_velocity(score: bytes) -> None:
    arranged = arrange(score, Variation(muted=(0,)))
    loud = {e.channel: e.velocity for e in events(arranged) if e.type == "note_on"}
    assert loud == {0: 0, 9: 100}


def test_what_is_no_score_is_refused() -> None:
    with pytest.raises(ValueError, match="score"):
        arrange(b"MThd but nothing more", Variation())


def test_levelled_has_the_level_and_no_peak_beyond_one() -> None:
    x = torch.sin(torch.arange(16000) / 7)
    assert float(levelled(x).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-5)
    spike = torch.zeros(16000)
    spike[5] = 1e-3
    assert float(levelled(spike).abs().max()) == pytest.approx(1)
    assert not levelled(torch.zeros(8)).any()


@PLAYER
def test_a_score_sounds_as_long_as_it_is_and_the_same_again(score: bytes) -> None:
    one, two = (synthesis.render(score, Variation(reverb=False)) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert 0.4 * 16000 < len(one) < 10 * 16000
    level, peak = float(one.square().mean().sqrt()), float(one.abs().max())
    assert max(level / 0.1, peak) == pytest.approx(1, rel=1e-3)
    higher = synthesis.render(score, Variation(semitones=6, muted=(9,), reverb=False))
    plain = synthesis.render(score, Variation(muted=(9,), reverb=False))
    peaks = [
        float(torch.fft.rfft(x[1000:5000], 16000).abs()[100:1000].argmax()) + 100
        for x in (plain, higher)
    ]
    assert peaks[1] / peaks[0] == pytest.approx(2**0.5, rel=0.02)


@PLAYER
def test_a_build_goes_on_where_it_was_and_splits_by_score(tmp_path: Path, wad: Path) -> None:
    folder = tmp_path / "pieces"
    data.build(folder, variations=2, wads=(wad,))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["pieces"]) == ["00-0", "00-1"]
    kept = (folder / "00-0.npy").stat().st_mtime_ns
    (folder / "00-1.npy").unlink()
    data.build(folder, variations=2, wads=(wad,))
    assert (folder / "00-0.npy").stat().st_mtime_ns == kept
    assert (folder / "00-1.npy").is_file()
    assert data.read(folder, "held-out").names == ("00-0", "00-1")
    with pytest.raises(ValueError, match="another recipe"):
        data.build(folder, variations=2, seed=1, wads=(wad,))


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.wad.*apt-get install freedoom"):
        data.build(tmp_path, wads=(tmp_path / "absent.wad",))
    with pytest.raises(FileNotFoundError, match=r"ctrlgen\.domains\.audio\.data"):
        data.read(tmp_path)


def test_clips_start_anywhere_and_stay_within_a_piece() -> None:
    first = np.arange(100, dtype=np.int16)
    second = np.arange(1000, 1050, dtype=np.int16)
    music = data.Music((first, np.zeros(5, np.int16), second), ("a", "b", "c"))
    # 91 + 0 + 41 starts leave a whole clip of ten samples.
    places = (torch.arange(132) + 0.5) / 132
    clips = music.clips(places, 10) * 32768
    starts = clips[:, 0].round().long().tolist()
    assert starts == [*range(91), *range(1000, 1041)]
    torch.testing.assert_close(clips - clips[:, :1], torch.arange(10.0).expand(132, -1))
    assert [len(block) for block in music.blocks(20, 4)] == [4, 3]
    with pytest.raises(ValueError, match="length"):
        music.clips(places, 1000)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "{}", '{"rate": 16000}', '{"rate": 16000, "pieces": []}',
     '{"rate": 16000, "pieces": {"x-0": {"samples": 1}}}',
     '{"rate": 16000, "pieces": {"00-0": {}}}', '{"rate": "x", "pieces": {}}', b"\xff\xfe"],
)  # fmt: skip
def test_a_damaged_manifest_is_said(tmp_path: Path, content: str | bytes) -> None:
    payload = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "manifest.json").write_bytes(payload)
    with pytest.raises(ValueError, match=r"^folder: .*manifest\.json is damaged; remove it"):
        data.read(tmp_path)
