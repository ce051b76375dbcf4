r"""Linear prediction: how a sound goes on, and whether what follows is a surprise.

    x[n] ≈ Σ_k a_k x[n − k],   k = 1..p,     R a = r  (Yule-Walker, r the autocorrelation)

by the autocorrelation method on a tapered past (J. Makhoul, "Linear prediction: a tutorial review",
Proc. IEEE 63, 1975), whose predictions die away and never grow. What the predictor misses,
e = x − Σ a_k x[n − k], is small and alike all along a sound, and large at an edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter, lfiltic

__all__ = ["HISTORY", "Predictor"]

HISTORY, ORDER = 4096, 64
"""Samples that a predictor is made from, and how many of them each sample is predicted by."""

_EDGE, _SURPRISE = 8, 3.0

Signal = NDArray[np.float64]


class Predictor:
    """The linear predictor of a sound; of silence or four samples it repeats the last one.

    Args:
        past: at least one sample, shape (n,).
    """

    def __init__(self, past: Signal) -> None:
        self.past = past
        order = min(ORDER, len(past) // 4)
        tapered = past * np.hanning(len(past) + 2)[1:-1]
        lags = np.correlate(tapered, tapered, "full")[len(past) - 1 :][: order + 1]
        weights = np.ones(1)
        if order and lags[0] > 0:
            lags[0] *= 1 + 1e-9  # of a pure tone the matrix is singular
            weights = solve_toeplitz(lags[:-1], lags[1:])
        self.filter = np.concatenate(([1.0], -weights))

    def continuation(self, count: int) -> Signal:
        """How the past goes on, shape (count,)."""
        state = lfiltic([1.0], self.filter, self.past[: -len(self.filter) : -1])
        going: Signal = lfilter([1.0], self.filter, np.zeros(count), zi=state)[0]
        return going

    def surprised(self, following: Signal) -> bool:
        """Whether the past does not go on so: e of the first samples is three times its usual size.

        Args:
            following: the samples after the past.
        """
        order = len(self.filter) - 1
        both = np.concatenate((self.past, following[:_EDGE]))
        missed = lfilter(self.filter, [1.0], both)[order:] ** 2
        usual, here = missed[: len(self.past) - order], missed[len(self.past) - order :]
        return bool(here.mean() > _SURPRISE**2 * (usual.mean() if len(usual) else 0))
