r"""Super-resolution: images seen at 1/f of their size, by bicubic antialiasing or by block means.

Bicubic: every output pixel weighs the 4f (f odd: 4f - 1) input pixels around its centre
c_j = f j + (f - 1)/2 by Keys' kernel stretched by f, k((i - c_j) / f), normalised to sum one, with
a = -1/2 (Keys 1981); images are reflected at their edges. For even f the taps lie at
(i - 2f + 1/2) / f, i = 0 ... 4f - 1, as in DDRM; for odd f they stay centred on the output pixel.
"""

from __future__ import annotations

import math

from ctrlgen.domains.images.operators.checks import check_positive_integer
from ctrlgen.domains.images.operators.separable import CUT, Line, Separable

__all__ = ["BlockAverage", "SuperResolution", "keys"]


def keys(x: float) -> float:
    """Keys' cubic convolution kernel with a = -1/2 at the distance x, in samples."""
    a, x = -0.5, abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0


class SuperResolution(Separable):
    """Bicubic downsampling: (B, C, H, W) to (B, C, H/f, W/f).

    Args:
        factor: f, any integer; it must divide height and width.
        cut: 1-D singular values of less are zero, in the measurement as well.
    """

    task = "upsample"

    def __init__(self, factor: int, cut: float = CUT) -> None:
        check_positive_integer(factor, "factor")
        centre = (factor - 1) / 2
        first, last = math.floor(centre - 2 * factor) + 1, math.ceil(centre + 2 * factor) - 1
        taps = [keys((i - centre) / factor) for i in range(first, last + 1)]
        line = Line(tuple(t / sum(taps) for t in taps), first, factor, "reflect")
        super().__init__(line, cut)
        self.factor = factor


class BlockAverage(Separable):
    """Means over blocks of f x f pixels: s = 1/f, and H† = f² H^T repeats every pixel.

    Args:
        factor: f, any integer; it must divide height and width.
    """

    task = "upsample"

    def __init__(self, factor: int) -> None:
        check_positive_integer(factor, "factor")
        super().__init__(Line((1 / factor,) * factor, 0, factor, "zero"), cut=0.0)
        self.factor = factor
