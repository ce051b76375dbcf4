r"""A judge of generated digits that knows nothing of the guide: another network, seed and training.

    logits = LeNet(x):   5 x 5 convolutions, max pooling, ReLU and two dense layers
    (after LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document
    recognition", 1998)

The embedded `mnist-classifier`, by which `optimal_control.classes` steers, has strided
convolutions, RMS norms and SiLU. What raises the guide's logits without drawing a digit has no
reason to raise those of a judge of another make: agreement with the judge is agreement with the
digit. It is trained once by the package's own loop on the same augmented images, and kept with its
accuracy on the 10,000 test images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.images.classifier import ClassifierTrainer
from ctrlgen.domains.images.data import fetch, read
from ctrlgen.domains.images.trainer import Recipe
from ctrlgen.runs.json_files import write_json
from ctrlgen.training.runs import run

__all__ = ["RECIPE", "SEED", "LeNet", "judge"]

SEED = 1  # the guide's is 0

RECIPE = Recipe(
    name="mnist-judge",
    dataset="mnist",
    config={"widths": [16, 32, 128]},
    dropout=0.0,
    batch=128,
    optimizer="adamw",
    lr=2e-3,
    average=0.99,
    flat=0.2,
    autocast=False,  # half precision gains nothing at this size
)


class LeNet(nn.Module):
    """Logits of MNIST digits.

    Args:
        widths: channels of the two convolutions, units of the hidden layer.
        classes: number of classes.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 128), classes: int = 10) -> None:
        super().__init__()
        first, second, hidden = widths
        self.first = nn.Conv2d(1, first, 5)
        self.second = nn.Conv2d(first, second, 5)
        self.hidden = nn.Linear(second * 4 * 4, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of images (B, 1, 28, 28) in [-1, 1]."""
        h = F.max_pool2d(F.relu(self.first(x)), 2)
        h = F.max_pool2d(F.relu(self.second(h)), 2)
        return self.head(F.relu(self.hidden(h.flatten(1))))


class _Trainer(ClassifierTrainer):
    """The classifier's training of another network."""

    def build(self) -> nn.Module:
        return LeNet(tuple(self.recipe.config["widths"]))


def judge(
    cache: Path, data: Path | None = None, steps: int = 1200, device: torch.device | str = "cpu"
) -> tuple[LeNet, dict[str, Any]]:
    """The judge in evaluation mode, and what is known of it.

    Args:
        cache: folder where it is kept; trained anew for another recipe or number of steps.
        data: folder of MNIST, needed to train; downloaded into data/mnist when None.
        steps: of training.
        device: where it goes; it is trained on the CPU.

    Returns:
        The network, and "accuracy" (share of the test images), "test_images", "steps", "seconds"
        of training, and "recipe".
    """
    file, about = cache / "judge.safetensors", cache / "judge.json"
    recipe = {**RECIPE.settings(), "seed": SEED}
    network = LeNet(tuple(RECIPE.config["widths"]))
    if about.exists():
        known = json.loads(about.read_text())
        if known["recipe"] == recipe and known["steps"] == steps:
            network.load_state_dict(load_file(file))
            return _ready(network, device), known
    if data is None:
        default = Path("data") / "mnist"
        data = default if default.is_dir() else fetch("mnist", default)
    trainer = _Trainer(RECIPE, read("mnist", data, "train"), SEED)
    run(trainer, steps=steps)
    network.load_state_dict(trainer.average.state_dict())
    network = _ready(network, "cpu")
    images, labels = read("mnist", data, "test")
    with torch.no_grad():
        right = torch.cat([network(part).argmax(1) for part in images.split(500)]) == labels
    known = {
        "accuracy": float(right.double().mean()),
        "test_images": len(labels),
        "steps": steps,
        "seconds": trainer.seconds,
        "recipe": recipe,
    }
    cache.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    write_json(about, known, indent=1)
    return _ready(network, device), known


def _ready(network: LeNet, device: torch.device | str) -> LeNet:
    return network.to(device).eval().requires_grad_(False)
