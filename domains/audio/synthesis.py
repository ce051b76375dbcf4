r"""Rendering of scores by FluidSynth: Standard MIDI Files to waveforms of one channel.

The synthesiser plays at twice the rate that is wanted and the result is resampled (`resampling`),
so that no partial beyond the Nyquist frequency folds back. Loudness is set afterwards, to a root
mean square of −20 dB of full scale over the whole piece plus the variation's decibels.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ctrlgen.domains.audio.arrangement import Variation, arrange
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.extras import require

__all__ = ["LEVEL", "SOUND_FONT", "levelled", "render"]

LEVEL = -20.0
"""Root mean square of a piece, in dB of full scale."""

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""FluidR3 GM by Frank Wen (MIT), of Debian's fluid-soundfont-gm."""


def levelled(x: Tensor, decibels: float = LEVEL) -> Tensor:
    """A signal scaled to a root mean square in dB of full scale, its peaks held within ±1.

    Args:
        x: shape (..., L); silence stays silence.
        decibels: of the root mean square.
    """
    rms = x.square().mean(-1, keepdim=True).sqrt()
    scaled = x * torch.where(rms > 0, 10 ** (decibels / 20) / rms.clamp_min(1e-12), 0)
    peak = scaled.abs().amax(-1, keepdim=True)
    return scaled / peak.clamp_min(1.0)


def render(
    score: bytes,
    change: Variation | None = None,
    *,
    rate: int = 16000,
    sound_font: Path = SOUND_FONT,
) -> Tensor:
    """A score as it sounds, shape (L,), float32 in [-1, 1].

    Args:
        score: a Standard MIDI File.
        change: variation of the score; as written when None.
        rate: in Hz.
        sound_font: SF2 file.

    Raises:
        FileNotFoundError: fluidsynth or the sound font is not installed.
        MissingExtra: mido or soundfile is not installed.
        ValueError: the score cannot be read, or the synthesiser made nothing of it.
    """
    require("soundfile", "audio")
    import soundfile

    program = shutil.which("fluidsynth")
    if program is None or not sound_font.is_file():
        lacking = "fluidsynth" if program is None else f"the sound font {sound_font}"
        raise FileNotFoundError(
            f"{lacking} is not installed: apt-get install fluidsynth fluid-soundfont-gm"
        )
    change = change or Variation()
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder) / "score.mid", Path(folder) / "score.wav"
        midi.write_bytes(arrange(score, change))
        switches = ["-R", str(int(change.reverb)), "-C", str(int(change.chorus)), "-g", "0.5"]
        command = [program, "-n", "-i", "-q", *switches, "-r", str(2 * rate), "-O", "float"]
        command += ["-T", "wav", "-F", str(wave), str(sound_font), str(midi)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not wave.is_file():
            raise ValueError(f"score: fluidsynth made nothing of it: {done.stderr.strip()[-300:]}")
        samples, played = soundfile.read(wave, dtype="float32", always_2d=True)
    if played != 2 * rate:
        raise ValueError(f"rate: fluidsynth plays at {played} Hz where {2 * rate} was asked for")
    mono = torch.from_numpy(samples).mean(1)
    return levelled(resample(mono, 2 * rate, rate), LEVEL + change.decibels)
