"""Measured quality of the embedded image priors, written into their cards.

    python -m ctrlgen.domains.images.quality mnist --data data/mnist
    python -m ctrlgen.domains.images.quality cifar10 --data data/cifar10

Sample i is drawn from seed i. Real images come from the standard splits; a row of real test images
of the same number stands beside every distance: it is what a perfect model would score. Numbers go
to weights/quality/<name>.json and into the card, with a grid of the first samples and the loss
curve beside them.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.images.classifier import load_classifier
from ctrlgen.domains.images.data import read
from ctrlgen.domains.images.frechet import embed, frechet_distance, load_embedder
from ctrlgen.domains.images.training import WEIGHTS
from ctrlgen.extras import require
from ctrlgen.priors.flows import Flow, Guided
from ctrlgen.priors.prior import Card, Prior, load
from ctrlgen.report.figures import save_picture
from ctrlgen.runs.json_files import dumps, write_json
from ctrlgen.training.curves import loss_curve

__all__ = ["draw", "measure_cifar10", "measure_classifier", "measure_mnist", "sheet"]


def draw(
    prior: Prior, count: int, steps: int, labels: Tensor | None = None, batch: int = 100
) -> Tensor:
    """Samples of seeds 0..count-1 after midpoint steps, shape (count, C, H, W).

    Args:
        prior: the prior.
        count: number of samples.
        steps: midpoint steps on the prior's grid, two evaluations each.
        labels: one class per sample, shape (count,); unconditional when None.
        batch: samples computed together.
    """
    parts = []
    for seeds in torch.arange(count).split(batch):
        bound = prior if labels is None else prior.bind(label=labels[seeds])
        parts.append(bound.sample(seeds, prior.solver(steps)))
    return torch.cat(parts)


def guided(prior: Prior, scale: float) -> Prior:
    """The prior under classifier-free guidance of its label."""
    null = {name: limits["null"] for name, limits in prior.card.conditions.items()}  # type: ignore[union-attr]
    clone = copy.copy(prior)
    clone.flow = Flow(Guided(prior.flow.network, scale, null), prior.flow.path, prior.flow.kind)
    return clone


def sheet(images: Tensor, file: Path, columns: int = 10) -> None:
    """Write images (N, C, H, W) in [-1, 1] as one PNG grid, enlarged twice."""
    image = require("PIL.Image", "images")
    count, channels, height, width = images.shape
    rows = count // columns
    pixels = ((images[: rows * columns].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    flat = pixels.reshape(rows * height, columns * width, channels).cpu().numpy()
    picture = image.fromarray(flat.squeeze(-1) if channels == 1 else flat)
    file.parent.mkdir(parents=True, exist_ok=True)
    size = (2 * picture.width, 2 * picture.height)
    save_picture(picture.resize(size, image.Resampling.NEAREST), file)


def measure_classifier(folder: str | Path) -> dict[str, Any]:
    """Accuracy of the embedded digit classifier on the 10,000 MNIST test images."""
    images, labels = read("mnist", folder, "test")
    classifier = load_classifier()
    with torch.no_grad():
        guesses = torch.cat([classifier(part).argmax(dim=1) for part in images.split(500)])
    accuracy = float((guesses == labels).double().mean())
    return {
        "summary": f"test accuracy {accuracy:.2%}",
        "test_images": len(labels),
        "accuracy": accuracy,
    }


def measure_mnist(
    folder: str | Path, count: int = 1000, steps: int = 50, out: Path = WEIGHTS / "quality"
) -> dict[str, Any]:
    """Unconditional and class-conditional digits, judged by the embedded classifier."""
    prior, classifier = load("mnist"), load_classifier()
    features = load_embedder("FD-MNISTClassifier")
    train, test = read("mnist", folder, "train"), read("mnist", folder, "test")
    real = embed(features, train.images[:10000])

    def judge(images: Tensor) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            probability = torch.cat([classifier(part) for part in images.split(500)]).softmax(dim=1)
        confidence, guess = probability.max(dim=1)
        distance = frechet_distance(embed(features, images), real)
        return guess, {
            "confident": float((confidence > 0.9).double().mean()),
            "FD-MNISTClassifier": float(distance),
        }

    started = time.perf_counter()
    free = draw(prior, count, steps)
    seconds = time.perf_counter() - started
    labels = torch.arange(count) % 10
    chosen = draw(prior, count, steps, labels)
    guess, conditional = judge(chosen)
    sheet(free[:100], out / "mnist-unconditional.png")
    sheet(chosen[:100], out / "mnist-conditional.png")
    unconditional, real_test = judge(free)[1], judge(test.images[:count])[1]
    return {
        "summary": f"{unconditional['confident']:.1%} of draws confident digits "
        f"(real: {real_test['confident']:.1%})",
        "samples": count,
        "solver": repr(prior.solver(steps)),
        "seconds_per_sample": seconds / count,
        "unconditional": unconditional,
        "conditional": conditional | {"label_agrees": float((guess == labels).double().mean())},
        "real_test": real_test,
        "note": "confident: fraction with classifier confidence above 0.9; distances against the "
        "first 10,000 training images, classifier features",
    }


def measure_cifar10(
    folder: str | Path,
    count: int = 5000,
    steps: int = 10,
    scale: float | None = None,
    out: Path = WEIGHTS / "quality",
) -> dict[str, Any]:
    """Images with and without a class, and guided if a scale is given, by FD-EfficientNetLite0."""
    prior = load("cifar10")
    features = load_embedder("FD-EfficientNetLite0")
    train, test = read("cifar10", folder, "train"), read("cifar10", folder, "test")
    real = embed(features, train.images[:count])
    labels = torch.arange(count) % 10
    result: dict[str, Any] = {
        "samples": count,
        "solver": repr(prior.solver(steps)),
        "real_test": {
            "FD-EfficientNetLite0": float(
                frechet_distance(embed(features, test.images[:count]), real)
            )
        },
    }
    rows: dict[str, tuple[Prior, Tensor | None]] = {
        "unconditional": (prior, None),
        "conditional": (prior, labels),
    }
    if scale is not None:
        rows[f"guided_{scale:g}"] = guided(prior, scale), labels
    for name, (chosen, wanted) in rows.items():
        started = time.perf_counter()
        images = draw(chosen, count, steps, wanted)
        seconds = time.perf_counter() - started
        sheet(images[:100], out / f"cifar10-{name.split('_')[0]}.png")
        result[name] = {
            "FD-EfficientNetLite0": float(frechet_distance(embed(features, images), real)),
            "seconds_per_sample": seconds / count,
        }
    metric = "FD-EfficientNetLite0"
    result["summary"] = (
        f"{metric} {result['conditional'][metric]:.0f} (real: {result['real_test'][metric]:.0f})"
    )
    result["note"] = (
        f"distances against the first {count} training images, EfficientNet-Lite0 features at "
        "96x96; samples are not clipped; guided_w: classifier-free guidance of scale w"
    )
    return result


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "mnist": measure_mnist,
    "cifar10": measure_cifar10,
    "mnist-classifier": measure_classifier,
}


def main(name: str, folder: str, **options: Any) -> dict[str, Any]:
    """Measure one network, write its JSON, its pictures and its card; returns the numbers."""
    card = Card.read(WEIGHTS / f"{name}.json")
    quality = MEASURES[name](folder, **options)
    command = f"python -m ctrlgen.domains.images.quality {name} --data {folder}"
    command += "".join(f" --{key} {value}" for key, value in options.items())
    quality |= {"command": command, "weights_sha256": card.sha256, "torch": torch.__version__}
    out = WEIGHTS / "quality"
    out.mkdir(exist_ok=True)
    write_json(out / f"{name}.json", quality)
    log = WEIGHTS / f"{name}.log.jsonl"
    final = [json.loads(line) for line in log.read_text().splitlines()][-1]
    if "final" in final:
        quality["validation_loss"] = final["final"]
    replace(card, quality=quality).write(WEIGHTS / f"{name}.json")
    loss_curve(log, out / f"{name}-loss.png")
    return quality


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", choices=sorted(MEASURES))
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--count", type=int, help="samples")
    parser.add_argument("--steps", type=int, help="midpoint steps")
    parser.add_argument(
        "--scale", type=float, help="also measure guidance of this scale (CIFAR-10)"
    )
    arguments = parser.parse_args()
    wanted = ("count", "steps", "scale")
    extra = {k: v for k in wanted if (v := getattr(arguments, k)) is not None}
    torch.set_num_threads(1)
    print(dumps(main(arguments.name, arguments.data, **extra)))
