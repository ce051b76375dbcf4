r"""An image file restored: from what a person has to what D-Flow solves, and back to files.

The file is the measurement y = H(x) + σ n, or with `degrade` the true x, from which y is made. Of a
file in bytes the rounding is part of the noise, σ² = σ_user² + σ_rounding². A sample has its target
where its residual is the noise, at 20 log₁₀(2/σ) dB, or at the preset's level where that is lower.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen import console
from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.images.files import ROUNDING, is_grey, read_image, with_channels, write_image
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.initializers import Blend, GuidedStart, Initializer, SourceSample
from ctrlgen.methods import DFlow
from ctrlgen.operators import LinearOperator, measure
from ctrlgen.optimizers import LBFGS
from ctrlgen.outputs import output_folder
from ctrlgen.priors import Card, Prior, available, load
from ctrlgen.results import Result, Status

__all__ = ["INITIALIZERS", "Problem", "choose", "method_for", "pose", "solve", "write"]

INITIALIZERS: dict[str, Callable[[], Initializer]] = {
    "guided": GuidedStart,
    "mean": partial(GuidedStart, temperature=0.0, start=0.3),
    "blend": Blend,
    "source": SourceSample,
}

_PRESETS = {"inpaint": "inpaint", "upsample": "sr2", "deblur": "deblur", "denoise": "denoise"}


@dataclass(frozen=True)
class Problem:
    """One measurement to restore.

    Attributes:
        task: "inpaint", "upsample", "deblur" or "denoise".
        prior: chosen for the size and the colours.
        operator: H.
        y: the measurement, shape (1, *measurement).
        noise: σ_user, as stated, in [−1, 1].
        rounding: whether y was rounded to bytes.
        truth: the true image (1, C, H, W), if it is known.
    """

    task: str
    prior: Prior
    operator: LinearOperator
    y: Tensor
    noise: float
    rounding: bool
    truth: Tensor | None

    @property
    def sigma(self) -> float:
        """σ, with the rounding."""
        return math.hypot(self.noise, ROUNDING if self.rounding else 0.0)

    def cost(self, rows: int) -> NegativePSNR:
        """The cost of `rows` samples that share the measurement."""
        y = self.y.expand(rows, *self.y.shape[1:])
        return NegativePSNR(self.operator, y, self.sigma)


def choose(name: str | None, size: tuple[int, int], grey: bool) -> str:
    """The prior for images of this (height, width): the one that is named, or the best that fits.

    Raises:
        ValueError: if none supports the size and colours; says which do what.
    """
    cards = {n: c for n, c in available().items() if c.domain == "images"}
    if name is not None:
        return name
    fitting = [n for n, c in cards.items() if _fits(c, size, grey)]
    if fitting:  # as few channels as the image needs
        return min(fitting, key=lambda n: (cards[n].source["shape"][0], n))
    known = ", ".join(
        f"{n} {_words(c.source['shape'][1:], c.source['shape'][0] == 1)}" for n, c in cards.items()
    )
    raise ValueError(
        f"prior: none supports {_words(size, grey)} images; there are {known or 'none'} "
        "(--fit crops and resamples the file, --prior takes a card of your own)"
    )


def _fits(card: Card, size: tuple[int, int], grey: bool) -> bool:
    shape = card.source.get("shape", [])
    return tuple(shape[1:]) == size and (grey or shape[0] == 3)


def _words(size: Sequence[int], grey: bool) -> str:
    return f"{size[0]}x{size[1]} {'grey' if grey else 'colour'}"


def pose(
    task: str,
    file: Path,
    operator: Callable[[tuple[int, ...]], LinearOperator],
    *,
    scale: int = 1,
    prior: str | None = None,
    label: int | None = None,
    degrade: bool = False,
    noise: float = 0.0,
    truth: Path | None = None,
    fit: bool = False,
    device: str = "cpu",
) -> Problem:
    """Read the files and set the problem up; everything that can be wrong with them shows here.

    Args:
        task: "inpaint", "upsample", "deblur" or "denoise".
        file: the measurement; the true image where `degrade` is set.
        operator: H for images of a shape (C, H, W).
        scale: size of the image over that of its measurement.
        prior: name or card; by default the one that fits.
        label: class of the image, for a prior that knows classes.
        degrade: make the measurement from the file.
        noise: σ_user in [−1, 1], of the measurement or added to it.
        truth: the true image.
        fit: crop and resample the file to what the prior takes; needs `prior`.
        device: of the network and the run.

    Raises:
        ValueError: for files, sizes, colours, noise or labels that do not fit together.
    """
    if not (math.isfinite(noise) and 0 <= noise < 2):
        raise ValueError(f"noise: expected a standard deviation in [0, 2), got {noise}")
    if degrade and truth is not None:
        raise ValueError("truth: with --degrade the file itself is the truth")
    scale = 1 if degrade else scale
    loaded, target = None, None
    if fit:
        if prior is None:
            raise ValueError("fit: needs --prior, the prior whose size is wanted")
        loaded = load(prior, device=device)
        height, width = _signal_shape(loaded)[-2:]
        target = (height // scale, width // scale)
    image = read_image(file, target)
    size = (image.shape[1] * scale, image.shape[2] * scale)
    if loaded is None:
        loaded = load(choose(prior, size, is_grey(image)), device=device)
    shape = _signal_shape(loaded)
    if len(shape) != 3:
        raise ValueError(f"prior: expected one of images, got signals of shape {shape}")
    channels, *plane = shape
    if list(size) != plane:
        raise ValueError(
            f"file: the prior takes images of {_words(plane, channels == 1)}, {file} gives "
            f"{_words(size, is_grey(image))}"
        )
    if label is not None:
        loaded.bind(label=torch.tensor([label]))  # raises where there is no such label
    image = with_channels(image, channels)[None].to(device)
    known = None
    if truth is not None:
        known = read_image(truth, size if fit else None, "truth")
        known = with_channels(known, channels, "truth")
        if tuple(known.shape) != shape:
            raise ValueError(
                f"truth: expected {shape}, the size of the result, got {tuple(known.shape)}"
            )
        known = known[None].to(device)
    made = operator(shape)
    if degrade:
        known, image = image, measure(made, image, noise, [0])
    elif task == "inpaint":
        image = made(image)
    return Problem(task, loaded, made, image, noise, not degrade, known)


def _signal_shape(prior: Prior) -> tuple[int, ...]:
    """Shape of one image, which a codec may make another than that of a state."""
    with torch.no_grad():
        return tuple(prior.codec.decode(torch.zeros(1, *prior.source.shape)).shape[1:])


def method_for(
    problem: Problem, init: str, iterations: int, target: float | None, device: str
) -> DFlow:
    """The preset of the task, with its target where the noise of the measurement puts it.

    Args:
        problem: what is to be solved.
        init: a key of `INITIALIZERS`.
        iterations: of L-BFGS, per sample.
        target: PSNR of the measurement at which a sample stops, in dB; None for the preset's.
        device: of the run.
    """
    if target is not None and not math.isfinite(target):
        raise ValueError(f"target: expected a PSNR in dB, got {target}")
    if init not in INITIALIZERS:
        raise ValueError(f"init: expected one of {', '.join(INITIALIZERS)}, got {init!r}")
    name = _PRESETS[problem.task]
    if problem.noise > 0 and name != "denoise":
        name += "-noisy"
    preset = DFlow.preset(name)
    assert preset.target is not None
    goal = -preset.target if problem.noise == 0 else math.inf
    if problem.sigma > 0:
        goal = min(goal, 20 * math.log10(2 / problem.sigma))
    return dataclasses.replace(
        preset,
        initializer=INITIALIZERS[init](),
        optimizer=LBFGS(max_iterations=iterations),
        target=-(goal if target is None else target),
        device=device,
    )


def solve(
    problem: Problem, method: DFlow, seeds: list[int], label: int | None = None
) -> tuple[Result, float]:
    """Run, with the progress of every sample on the screen; the result and the seconds it took."""
    prior = problem.prior
    if label is not None:
        prior = prior.bind(label=torch.full((len(seeds),), label))
    assert method.target is not None
    begun = time.perf_counter()
    with console.SampleProgress(
        problem.task, seeds, unit="dB", sign=-1, target=-method.target
    ) as progress:
        result = method(prior, problem.cost(len(seeds)), seeds=seeds, observer=progress)
    return result, time.perf_counter() - begun


def write(
    problem: Problem, method: DFlow, result: Result, seconds: float, folder: Path, **about: Any
) -> dict[str, Any]:
    """Write images, figure and `result.json` into a new folder, whole or not at all.

    Returns:
        What `result.json` holds.
    """
    from ctrlgen.domains.images.figures import restoration_figure

    card, plain = problem.prior.card, problem.operator.pinv(problem.y)
    content: dict[str, Any] = {
        "task": problem.task,
        **about,
        "prior": {"name": card.name, "sha256": card.sha256} if card else None,
        "operator": type(problem.operator).__name__,
        "noise": problem.noise,
        "rounding": ROUNDING if problem.rounding else 0.0,
        "method": result.method,
        "target_psnr": -method.target if method.target is not None else None,
        "seconds": round(seconds, 3),
        "samples": _samples(problem, result),
        "summary": result.summary(),
        "history": {
            "measurement_psnr": (-result.history["cost"]).T,
            "evaluations": result.history["evaluations"].T,
        },
    }
    if problem.truth is not None:
        content["pseudo_inverse"] = {k: v[0] for k, v in _scores(plain, problem.truth).items()}
    with output_folder(folder) as place:
        write_image(place / "measurement.png", problem.y[0])
        for seed, image in zip(result.seeds.tolist(), result.samples, strict=True):
            write_image(place / f"reconstruction-{seed}.png", image)
        restoration_figure(place / "figure.png", problem, result, content)
        (place / "result.json").write_text(console.dumps(content) + "\n")
    return content


def _samples(problem: Problem, result: Result) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {
        "seed": result.seeds.tolist(),
        "measurement_psnr": (-result.costs).tolist(),
        "status": [Status(code).label for code in result.status.tolist()],
        "iterations": result.iterations.tolist(),
        "evaluations": result.evaluations.tolist(),
    }
    if problem.truth is not None:
        columns |= _scores(result.samples, problem.truth.expand_as(result.samples))
    columns["file"] = [f"reconstruction-{seed}.png" for seed in columns["seed"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _scores(images: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """PSNR, and SSIM where its window fits into the images."""
    scores = {"psnr": psnr(images, truth).tolist()}
    if min(truth.shape[-2:]) >= 11:
        scores["ssim"] = ssim(images, truth).tolist()
    return scores
