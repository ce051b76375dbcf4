"""Priors: a flow read through a path, its source and codec, and how they are kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.priors.cards import Card
    from ctrlgen.priors.codecs import Codec, Identity, Scaled
    from ctrlgen.priors.flows import Flow, Guided
    from ctrlgen.priors.likelihood import bits_per_dimension, log_likelihood
    from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path
    from ctrlgen.priors.pins import Entries, Pins, pinned
    from ctrlgen.priors.prior import Prior, available, load
    from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
    from ctrlgen.priors.trust import trusting

__all__ = [
    "EDM",
    "VP",
    "Card",
    "Codec",
    "CondOT",
    "Cosine",
    "DiscreteVP",
    "Entries",
    "Flow",
    "Gaussian",
    "Guided",
    "Identity",
    "MaskedGaussian",
    "Path",
    "Pins",
    "Prior",
    "Scaled",
    "Source",
    "available",
    "bits_per_dimension",
    "load",
    "log_likelihood",
    "pinned",
    "trusting",
]

__getattr__, __dir__ = attach(__name__)
