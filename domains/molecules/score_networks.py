r"""Regressors of drug-like molecules: QED, logP, SA and the gap of GFN2-xTB, as far as labelled.

With features h_i of the atoms and the composition c, as in `regressors`,

    logp             b·c + b_0 + Σ_i f(h_i)                          a sum of atoms, as Crippen's is
    qed, sa, gap     b·c + b_0 + MLP(Σ_i softmax_i(a·h_i) h_i, ...)

in units of the mean absolute deviation. Trained by `regressor_trainer`, molecules without a label
left out of its property; a guide of what no molecule is labelled with does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctrlgen.domains.molecules.layers import RowLinear
from ctrlgen.domains.molecules.moses_data import SCORES
from ctrlgen.domains.molecules.regressors import Regressor

__all__ = ["ScoreNetwork", "build"]

_ADDITIVE = ("logp",)


class ScoreNetwork(Regressor):
    """Some of QED, logP, SA and gap (meV), in the order of the names.

    Args:
        names: some of `moses_data.SCORES`.
        classes, mean, deviation, baseline, **trunk: as of `Regressor`; all have a baseline.

    Raises:
        ValueError: an unknown name, one twice, or none.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        baseline: Sequence[Sequence[float]] | None = None,
        **trunk: Any,
    ) -> None:
        if not names or set(names) - set(SCORES) or len(set(names)) < len(names):
            raise ValueError(f"names: expected some of {', '.join(SCORES)}, got {list(names)}")
        super().__init__(names, names, classes, mean, deviation, baseline, **trunk)
        width, size = self.trunk.width, len(names)
        self.head_atom = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size))
        self.head_score = nn.Linear(width, size)
        self.head_pooled = nn.Sequential(
            RowLinear(size * width, width), nn.SiLU(), RowLinear(width, size)
        )

    def scaled(self, positions: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
        """(property - mean)/deviation, shape (B, P); arguments as of `forward`."""
        kept = mask.unsqueeze(2)
        x, h, _, base = self.atoms(positions, classes, mask)
        sums = torch.where(kept, self.head_atom(h).to(x.dtype), 0).sum(1)
        whole = self.head_pooled(self.pooled(h, kept, x.dtype)).to(x.dtype)
        columns = [sums if name in _ADDITIVE else whole for name in self.names]
        return base + torch.stack([part[:, i] for i, part in enumerate(columns)], dim=1)


def build(**options: Any) -> ScoreNetwork:
    """Construct a regressor of scores from the configuration of its card."""
    return ScoreNetwork(**options)
