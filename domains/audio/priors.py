"""Priors of audio by the names that users give."""

from __future__ import annotations

from ctrlgen.domains.audio.states import LatentCodec
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.storage import load
from ctrlgen.rows.errors import concerning

__all__ = ["prior_of_audio"]


def prior_of_audio(name: str, device: str = "cpu") -> Prior:
    """The prior of a name or card, whose signals must be sound.

    Raises:
        ValueError: if there is none, or its signals are something else.
    """
    with concerning("prior"):
        prior = load(name, device=device)
    if not isinstance(prior.codec, LatentCodec):
        raise ValueError(f"prior: expected one of audio, {name} has another kind of signal")
    return prior
