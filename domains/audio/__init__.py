"""Audio: codecs of continuous latents, operators on the waveform, metrics, data, priors."""

from __future__ import annotations

from pathlib import Path

from ctrlgen.plugins import Domain

__all__ = ["domain"]

_TRAIN = "ctrlgen.domains.audio.training:train"

domain = Domain(
    name="audio",
    cards=Path(__file__).parent / "weights",
    command="audio",
    app="ctrlgen.domains.audio.cli:app",
    recipes={"mdct-16k": _TRAIN, "mdct-16k-compact": _TRAIN, "freedoom-music": _TRAIN},
    builders=("ctrlgen.domains.audio.networks:build", "ctrlgen.domains.audio.spectral:build"),
    panel="ctrlgen.domains.audio.panel:PANEL",
)
