"""Sound files: what is written is what was read, and what is no sound is refused."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ctrlgen.domains.audio.files import Recording, read, write
from ctrlgen.domains.audio.mpeg import count


def samples(channels: int, length: int = 400) -> torch.Tensor:
    draw = torch.Generator().manual_seed(channels)
    return torch.rand(channels, length, dtype=torch.float64, generator=draw) * 1.6 - 0.8


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"),
        ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
        ("AIFF", "PCM_16"), ("AIFF", "PCM_24"),
    ],
)  # fmt: skip
def test_bits_survive_any_number_of_round_trips(
    tmp_path: Path, channels: int, rate: int, kind: str, subtype: str
) -> None:
    first = write(tmp_path / "a", Recording(samples(channels), rate, kind, subtype))
    one = read(first)
    assert (one.rate, one.format, one.subtype) == (rate, kind, subtype)
    assert one.samples.shape == (channels, 400)
    two = read(write(tmp_path / "b", one))
    assert torch.equal(one.samples, two.samples)
    assert (tmp_path / "a").read_bytes()[-300:] == (tmp_path / "b").read_bytes()[-300:]


def test_integers_are_shares_of_full_scale(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([-32768, 0, 16384, 32767], np.int16), 8000)
    assert read(tmp_path / "a.wav").samples.tolist() == [[-1, 0, 0.5, 32767 / 32768]]


def test_samples_beyond_full_scale_are_held_not_wrapped(tmp_path: Path) -> None:
    loud = Recording(torch.tensor([[2.0, -2.0, 0.25]], dtype=torch.float64), 8000)
    back = read(write(tmp_path / "a.wav", loud)).samples
    assert back.tolist() == [[32767 / 32768, -1, 0.25]]


def test_tags_are_kept(tmp_path: Path) -> None:
    tagged = Recording(samples(1), 44100, "FLAC", "PCM_16", {"title": "Étude", "artist": "A"})
    one = read(write(tmp_path / "a.flac", tagged))
    assert one.tags == {"title": "Étude", "artist": "A"}
    assert read(write(tmp_path / "b.flac", one.with_samples(one.samples / 2))).tags == one.tags


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.wav", b""), ("text.wav", b"no sound at all"), ("film.mp4", b"\0\0\0\x18ftypmp42" * 9)],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"file: .*{name}"):
        read(tmp_path / name)


def test_no_file_no_samples_and_no_numbers_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read(tmp_path / "absent.wav")
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    with pytest.raises(ValueError, match="no samples"):
        read(tmp_path / "none.wav")
    broken = np.zeros(8000)
    broken[4000] = math.nan
    soundfile.write(tmp_path / "nan.wav", broken, 8000, "FLOAT")
    with pytest.raises(ValueError, match=r"1 samples that are no numbers, the first at 0\.5000 s"):
        read(tmp_path / "nan.wav")


@pytest.mark.parametrize(
    ("recording", "argument"),
    [
        (Recording(torch.zeros(4), 8000), "samples"),
        (Recording(torch.full((1, 4), math.nan), 8000), "samples"),
        (Recording(torch.zeros(1, 4), 8000, "FLAC", "FLOAT"), "subtype"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, recording: Recording, argument: str
) -> None:
    with pytest.raises(ValueError, match=argument):
        write(tmp_path / "a.wav", recording)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="libsndfile without MP3")
def test_an_mp3_whose_header_tells_another_length_is_refused(tmp_path: Path) -> None:
    """Libsndfile goes by the header: it would cut the sound, or promise days of it."""
    file, rate = tmp_path / "a.mp3", 16000
    time = np.arange(2 * rate) / rate
    soundfile.write(file, 0.2 * np.sin(2764.6 * time), rate)
    assert read(file).samples.shape == (1, 2 * rate) and read(file).format == "MP3"
    whole = file.read_bytes()
    counted = count(whole)
    assert counted is not None and counted.frame == 576
    at = max(whole.find(b"Xing"), whole.find(b"Info"))
    frames = struct.unpack(">I", whole[at + 8 : at + 12])[0]
    assert counted.samples == 576 * (frames + 1)  # the header is a frame itself
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257)
    assert count(tag + whole) == counted and count(b"RIFF") is None
    wrong = [frames // 3, 10 * frames, 2**31 - 1]
    for told in wrong:
        file.write_bytes(whole[: at + 8] + struct.pack(">I", told) + whole[at + 12 :])
        with pytest.raises(ValueError, match=r"a\.mp3 says that it is .* its frames are 2\.124 s"):
            read(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="says that it is 2 s long"):
        read(file)
