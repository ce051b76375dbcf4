"""A small archive with one score, written byte by byte; a small prior of sound, and a command."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def midi(*events: bytes, division: int = 480) -> bytes:
    """A Standard MIDI File of one track; events begin with their delta time."""
    track = b"".join(events) + b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, division)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def archive(*lumps: tuple[str, bytes]) -> bytes:
    """A WAD of named lumps."""
    body, directory, offset = b"", b"", 12
    for name, content in lumps:
        directory += struct.pack("<ii8s", offset, len(content), name.encode())
        body += content
        offset += len(content)
    return b"IWAD" + struct.pack("<ii", len(lumps), offset) + body + directory


@pytest.fixture()
def score() -> bytes:
    """Middle C and a drum for one beat of half a second, program 5 on the first channel."""
    return midi(
        b"\x00\xc0\x05",
        b"\x00\x90\x3c\x64",
        b"\x00\x99\x24\x64",
        b"\x83\x60\x80\x3c\x00",
        b"\x00\x89\x24\x00",
    )


@pytest.fixture()
def wad(tmp_path: Path, score: bytes) -> Path:
    """An archive that holds the score twice, and something else."""
    file = tmp_path / "music.wad"
    file.write_bytes(archive(("D_ONE", score), ("PLAYPAL", b"\0" * 48), ("D_TWO", score)))
    return file


@pytest.fixture(scope="module")
def card(tmp_path_factory: Any) -> str:
    """A card of a prior on the package's codec, windows of 0.4 s."""
    from ctrlgen.domains.audio import networks
    from ctrlgen.domains.audio.states import Frames, PretrainedCodec
    from ctrlgen.priors.flows import Flow
    from ctrlgen.priors.paths import CondOT
    from ctrlgen.priors.prior import Prior
    from ctrlgen.priors.storage import load

    config = {"features": 640, "width": 16, "depth": 1, "heads": 2}
    prior = Prior(
        Flow(networks.build(**config), CondOT(), "velocity"),
        Frames(11, 640),
        PretrainedCodec("mdct-16k"),
    )
    folder = tmp_path_factory.mktemp("card")
    prior.save(
        folder, "small", factory="ctrlgen.domains.audio.networks:build", config=config,
        domain="audio",
    )  # fmt: skip
    assert isinstance(load(folder / "small.json").codec, PretrainedCodec)
    return str(folder / "small.json")


@pytest.fixture()
def wave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second of a tone at 16 kHz, in the working folder."""
    from ctrlgen.domains.audio.files import Recording, write

    monkeypatch.chdir(tmp_path)
    time = torch.arange(16000, dtype=torch.float64) / 16000
    return write(tmp_path / "in.wav", Recording(0.2 * (2764.6 * time).sin()[None], 16000))


@pytest.fixture()
def audio() -> Callable[..., int]:
    """Runs a command, and gives its exit code."""
    from ctrlgen.commands.main import main

    def run(*words: object, group: str | None = "audio") -> int:
        try:
            main([*([group] if group else []), *map(str, words)])
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run
