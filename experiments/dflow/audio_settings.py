"""Methods of `dflow.audio` at their settings, and the numbers of Table 3 of arXiv 2402.14017."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ctrlgen.domains.audio.restoration import Settings, method_for
from ctrlgen.methods import MPGD, NDTM, DMPlug, FlowPriors, Method, REDDiff
from ctrlgen.optimizers import Adam
from ctrlgen.priors.paths import CondOT
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.steps import DDIM

__all__ = ["DEFAULTS", "METHODS", "PUBLISHED", "build", "red_diff"]

Build = Callable[[Tensor, int | None], Method]


def _dflow(preset: str) -> Build:
    def build(target: Tensor, iterations: int | None) -> Method:
        return method_for(Settings(preset=preset, iterations=iterations), target)

    return build


def _plain(method: Method) -> Build:
    return lambda target, iterations: method


def red_diff(rate: float, weight: float) -> REDDiff:
    """The published baseline of latents of sound, at another learning rate and weight λ."""
    method = REDDiff.preset("audio")
    return replace(method, optimizer=Adam(learning_rate=rate, betas=(0.9, 0.99)), weight=weight)


METHODS: dict[str, Build] = {
    "d-flow-fast": _dflow("fast"),
    "d-flow-paper": _dflow("paper"),
    # the paper's baseline in latent form: learning rate 0.05, λ = 0.5
    "red-diff": _plain(REDDiff.preset("audio")),
    # the same, at the best of nine pairs on clips that no table reports: `dflow.audio_search`
    "red-diff-tuned": _plain(red_diff(0.5, 0.05)),
    # Latents are companded: a gradient in them has no scale that fits loud and quiet numbers alike.
    # Steps of Adam have their own; the others are as long as stays finite.
    "flow-priors": _plain(
        FlowPriors(grid=Uniform(25, 1e-3), weight=1e4, optimizer=Adam(learning_rate=0.1))
    ),
    "ndtm": _plain(
        NDTM(
            grid=Uniform(12, 0.02),
            clock=CondOT(),
            rule=DDIM(0.0),
            iterations=2,
            gamma=4.0,
            terminal_weight=1.0,
            optimizer=Adam(learning_rate=0.1),
        )
    ),
    "dmplug": _plain(DMPlug(grid=Uniform(3), optimizer=Adam(learning_rate=0.1, max_iterations=24))),
    "mpgd": _plain(
        MPGD(
            grid=Uniform(50, 0.02), clock=CondOT(), rule=DDIM(0.0), mu=10.0, mu_schedule="constant"
        )
    ),
}
"""From the PSNR in dB at which each clip may stop, shape (B,), and most iterations of D-Flow."""

DEFAULTS = tuple(name for name in METHODS if name != "d-flow-paper")


def build(name: str, target: Tensor, iterations: int | None = None) -> Method:
    """The method of a name.

    Args:
        name: a key of `METHODS`.
        target: PSNR in dB, peak 1, of what is observed, at which each clip of D-Flow may stop.
        iterations: most of D-Flow's L-BFGS; the preset's when None.
    """
    return METHODS[name](target, iterations)


PUBLISHED = {
    "in-domain": {
        "RED-diff": ((0.75, 31.19), (0.78, 29.99), (0.93, 35.27), (1.63, 33.51), (1.73, 29.12)),
        "D-Flow": ((0.22, 31.02), (0.49, 29.57), (0.22, 44.51), (0.50, 42.64), (1.01, 36.50)),
    },
    "MusicCaps": {
        "RED-diff": ((3.59, 32.81), (3.72, 30.39), (3.07, 37.13), (3.51, 34.99), (3.97, 30.49)),
        "D-Flow": ((1.19, 31.78), (1.31, 31.08), (1.25, 38.93), (1.42, 35.83), (2.09, 32.20)),
    },
}
"""FAD (VGGish) and PSNR in dB of the five tasks in the order of `TASKS`, by set and method."""
