"""A small digit classifier: the judge of generated digits and the embedder of their distances.

Three strided stages of 3x3 convolutions with channel-wise RMS norms and SiLU (smooth, so that the
logits can also serve as a cost), a global average, and a linear layer. The 128 averaged features
are those of "FD-MNISTClassifier". Trained with random shifts, rotations and scalings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctrlgen.domains.images.layers import normalise
from ctrlgen.domains.images.trainer import Trainer
from ctrlgen.rows.checks import check_sizes

__all__ = ["Classifier", "ClassifierTrainer", "augment", "build", "load_classifier"]


class Classifier(nn.Module):
    """Logits and features of small images.

    Args:
        shape: (channels, height, width) of one image in [-1, 1].
        classes: number of classes.
        widths: channels of the three stages; the last is the number of features.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        check_sizes(shape=shape, classes=classes, widths=widths)
        self.shape = tuple(shape)
        inner = (self.shape[0], *widths[:-1])
        self.shrink = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in zip(inner, widths, strict=True)
        )
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths)
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """Averaged features, shape (B, widths[-1]), of images (B, C, H, W) in [-1, 1]."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x: expected shape (B, {self.shape}), got {tuple(x.shape)}")
        h = x
        for shrink, mix in zip(self.shrink, self.mix, strict=True):
            h = F.silu(normalise(shrink(h)))
            h = h + mix(h)
        return F.silu(normalise(h)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of images (B, C, H, W) in [-1, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def build(**config: object) -> Classifier:
    """Construct the classifier of a model card."""
    return Classifier(**config)  # type: ignore[arg-type]


def augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """Shift by up to 2.5 pixels, rotate by up to 12 degrees and scale by 0.88..1.12, per sample.

    Args:
        images: (B, C, H, W) in [-1, 1]; the outside counts as -1.
        draw: source of the random numbers, on their device.
    """
    device = images.device
    u = torch.rand((5, len(images)), generator=draw, device=device) * 2 - 1
    angle, scale = u[0] * math.radians(12), 1 + 0.12 * u[1]
    cos, sin = angle.cos() * scale, angle.sin() * scale * (1 + 0.1 * u[2])
    height, width = images.shape[-2:]
    across, down = u[3] * (5 / width), u[4] * (5 / height)
    rows = (torch.stack((cos, -sin, across), 1), torch.stack((sin, cos, down), 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid.to(images), align_corners=False) - 1


class ClassifierTrainer(Trainer):
    """The training loop with cross-entropy on augmented images."""

    def build(self) -> nn.Module:
        return build(**self.recipe.config)

    def batch_loss(self, data: Tensor, label: Tensor, draw: torch.Generator) -> Tensor:
        with self.autocast():
            logits = self.network(augment(data, draw))
        return F.cross_entropy(logits.float(), label)

    @torch.no_grad()
    def validate(self, count: int | None = None) -> float:
        """Error rate of the averaged weights on the images held back."""
        images, labels = (part[:count] for part in self.validation_set)
        return float((self.average(images).argmax(dim=1) != labels).float().mean())


def load_classifier(device: torch.device | str = "cpu") -> Classifier:
    """The embedded MNIST classifier, in evaluation mode, its parameters without gradient."""
    from ctrlgen.domains.images.training import WEIGHTS
    from ctrlgen.priors.prior import Card, load_weights

    card = Card.read(WEIGHTS / "mnist-classifier.json")
    network = build(**card.config)
    load_weights(network, card, WEIGHTS)
    return network.to(device).eval().requires_grad_(False)
