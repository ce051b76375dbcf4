r"""Costs of a classifier: −log p(label | x), the cross-entropy of every sample by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.costs.base import Cost
from ctrlgen.rows.constants import follow

__all__ = ["ClassifierCost"]


class ClassifierCost(Cost):
    """−log p(label | x) under a classifier of signals, in nats.

    Args:
        classifier: signals (B, *signal) to logits (B, classes), differentiable, in evaluation mode.
        label: wanted classes, one per sample, int64, shape (B,).

    Raises:
        TypeError: if the labels are no int64 tensor or the classifier cannot be called.
        ValueError: if the labels are not of shape (B,), or negative.
    """

    per_sample = ("label",)

    def __init__(self, classifier: Callable[[Tensor], Tensor], label: Tensor) -> None:
        if not callable(classifier):
            raise TypeError(f"classifier: expected a callable, got {type(classifier).__name__}")
        if not isinstance(label, Tensor) or label.dtype != torch.int64:
            got = label.dtype if isinstance(label, Tensor) else type(label).__name__
            raise TypeError(f"label: expected an int64 tensor, got {got}")
        if label.ndim != 1 or bool((label < 0).any()):
            raise ValueError(f"label: expected classes >= 0, shape (B,), got {tuple(label.shape)}")
        self.classifier, self.label = classifier, label
        self._largest = int(label.max()) if len(label) else 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(x)
        if logits.ndim != 2 or len(logits) != len(self.label):
            raise ValueError(
                f"classifier: expected logits ({len(self.label)}, classes), one row per label, "
                f"got {tuple(logits.shape)}"
            )
        if self._largest >= logits.shape[1]:
            raise ValueError(
                f"label: expected classes below {logits.shape[1]}, got {self._largest}"
            )
        label = follow(self.label, logits)
        return torch.nn.functional.cross_entropy(logits, label, reduction="none")
