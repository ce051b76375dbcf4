"""Audio: codecs of continuous latents, operators on the waveform, metrics, data, priors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctrlgen.lazy import attach
from ctrlgen.plugins import Domain

if TYPE_CHECKING:
    from ctrlgen.domains.audio.files import SoundFile
    from ctrlgen.domains.audio.filters import BandLimit, LowPass, Reverb
    from ctrlgen.domains.audio.operators import Clipping, Mixture, TimeMask
    from ctrlgen.domains.audio.spectrograms import SpectrogramMask

__all__ = [
    "BandLimit",
    "Clipping",
    "LowPass",
    "Mixture",
    "Reverb",
    "SoundFile",
    "SpectrogramMask",
    "TimeMask",
    "domain",
]

__getattr__, __dir__ = attach(__name__)

_TRAIN = "ctrlgen.domains.audio.training:train"

domain = Domain(
    name="audio",
    cards=Path(__file__).parent / "weights",
    command="audio",
    app="ctrlgen.domains.audio.cli:app",
    demo="ctrlgen.domains.audio.demo:run",
    recipes=dict.fromkeys(
        ("mdct-16k", "mdct-16k-compact", "encodec-16k", "freedoom-music"), _TRAIN
    ),
    builders=tuple(
        f"ctrlgen.domains.audio.{part}:build" for part in ("networks", "spectral", "encodec")
    ),
    panel="ctrlgen.domains.audio.panel:PANEL",
)
