"""The optimisers of a training run, and how they leave out a step without asking the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ctrlgen.training.muon import Muon

__all__ = ["optimizers", "skip_when"]


def optimizers(
    network: nn.Module,
    kind: str,
    lr: float,
    weight_decay: float,
    outside: Sequence[str],
    dtype: torch.dtype,
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices whose names hold no word of outside, AdamW for the rest.

    Args:
        network: what is trained.
        kind: "muon", or "adamw" for AdamW alone.
        lr: learning rate of both.
        weight_decay: of both.
        outside: words in the names of matrices that Muon leaves to AdamW.
        dtype: of Muon's products.

    Raises:
        ValueError: an unknown kind of optimiser.
    """
    if kind not in ("muon", "adamw"):
        raise ValueError(f"optimizer: expected 'muon' or 'adamw', got {kind!r}")
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        inside = parameter.ndim >= 2 and not any(part in name for part in outside)
        (hidden if inside and kind == "muon" else other).append(parameter)
    adamw = torch.optim.AdamW(
        other, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    return [adamw, *([Muon(hidden, lr, weight_decay, dtype=dtype)] if hidden else [])]


@contextmanager
def skip_when(parts: Sequence[torch.optim.Optimizer], flag: Tensor) -> Iterator[None]:
    """Steps within change nothing, state included, where the flag is true.

    Args:
        parts: fused AdamW, which reads a `found_inf` as gradient scalers set it, and Muon.
        flag: bool, scalar, on the device of the weights; it is never read on the host.
    """
    found = flag.float()
    for part in parts:
        part.found_inf = found  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for part in parts:
            del part.found_inf  # type: ignore[attr-defined]
