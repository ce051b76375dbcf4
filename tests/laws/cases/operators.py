"""Cases of operators: those that the image domain registers, and all others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.adapters.deepinv import DeepinvLinear, DeepinvOperator
from ctrlgen.domains.audio.filters import BandLimit, Filter, LowPass, Reverb
from ctrlgen.domains.audio.operators import Clipping, TimeMask, gaps
from ctrlgen.domains.audio.operators import Mixture as Stems
from ctrlgen.domains.audio.spectrograms import SpectrogramMask
from ctrlgen.domains.images.operators import OPERATORS, Separable
from ctrlgen.domains.images.operators.separable import Line
from ctrlgen.operators.base import LinearOperator, Operator, Spectrum
from ctrlgen.operators.matrix import Matrix
from ctrlgen.rows.constants import follow
from tests.laws.cases.base import IMAGE, RATES, ROWS, SEEDS, Case, D, M, Outputs, draw, pick


class Diagonal(LinearOperator):
    """y = w ⊙ x for states of any one shape, a weight of every sample's own; some of it zero."""

    per_sample = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def spectrum(self, x: Tensor) -> Spectrum:
        weight = follow(self.weight, x)
        sign = torch.where(weight < 0, -1, 1).to(x)
        same: Callable[[Tensor], Tensor] = lambda v: v  # noqa: E731
        seen = (weight != 0).to(x)
        return Spectrum(weight.abs(), same, same, lambda y: sign * seen * y, lambda c: sign * c)

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(self.weight.shape[1:])


def diagonal(*shape: int) -> Diagonal:
    weight = draw(*shape, stream=32)
    return Diagonal(torch.where(weight.abs() < 0.3, 0, weight))


class Halve:
    """What deepinv calls a physics: here, half of the even entries."""

    def A(self, u: Tensor) -> Tensor:
        return u[:, ::2] / 2

    def A_adjoint(self, y: Tensor) -> Tensor:
        out = y.new_zeros(len(y), 2 * y.shape[1], *y.shape[2:])
        out[:, ::2] = y / 2
        return out

    def A_adjoint_A(self, u: Tensor) -> Tensor:
        return self.A_adjoint(self.A(u))

    def A_dagger(self, y: Tensor) -> Tensor:
        return 4 * self.A_adjoint(y)


def operator_rows(
    build: Callable[[], Operator], shape: tuple[int, ...]
) -> Callable[[Tensor, torch.dtype], Outputs]:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        operator = pick(build(), index, dtype)
        x = pick(torch.tanh(draw(*shape)), index, dtype)
        y = operator(x)
        outputs = {"y": y, "measured": operator.measured(y)}
        with contextlib.suppress(NotImplementedError):
            outputs["pinv"] = operator.pinv(y)
        if isinstance(operator, LinearOperator):
            variance = pick(0.5 + RATES, index, dtype)
            outputs["adjoint"] = operator.adjoint(y)
            outputs["project"] = operator.project(x)
            outputs["solve"] = operator.solve(y, variance, 0.1)
        return outputs

    return rows


def operator_case(
    build: Callable[[], Operator], shape: tuple[int, ...] = IMAGE, rounding: float | None = 1e-3
) -> Case:
    operator, states = build(), 0.8 * torch.tanh(draw(*shape))
    rows = operator_rows(build, shape)
    return Case(type(operator), rows, (operator, states), rounding=rounding, part=build)


def pixel_mask() -> Tensor:
    return draw(1, *IMAGE[1:], stream=35) > 0


def kernels() -> Tensor:
    return torch.softmax(draw(9, stream=36), 1).reshape(ROWS, 3, 3)


REGISTERED: dict[str, Case] = {
    "denoise": operator_case(OPERATORS["denoise"]),
    "inpaint-mask": operator_case(lambda: OPERATORS["inpaint-mask"](pixel_mask())),
    "inpaint-centre": operator_case(lambda: OPERATORS["inpaint-centre"]((6, 4), IMAGE)),
    "inpaint-random": operator_case(lambda: OPERATORS["inpaint-random"](0.6, IMAGE, SEEDS)),
    "inpaint-free-form": operator_case(lambda: OPERATORS["inpaint-free-form"](IMAGE, SEEDS)),
    "super-resolution": operator_case(lambda: OPERATORS["super-resolution"](2)),
    "block-average": operator_case(lambda: OPERATORS["block-average"](4)),
    "gaussian-blur": operator_case(lambda: OPERATORS["gaussian-blur"](1.0)),
    "blur": operator_case(lambda: OPERATORS["blur"](kernels(), cut=0.1)),
    "motion-blur": operator_case(lambda: OPERATORS["motion-blur"](SEEDS, 7, cut=0.2)),
    "colourise": operator_case(OPERATORS["colourise"]),
    "nonlinear-blur": operator_case(lambda: OPERATORS["nonlinear-blur"](0, 5)),
    "phase-retrieval": operator_case(OPERATORS["phase-retrieval"]),
    "hdr": operator_case(OPERATORS["hdr"]),
    "quantise": operator_case(lambda: OPERATORS["quantise"](3), rounding=None),
    "jpeg": operator_case(lambda: OPERATORS["jpeg"](50), rounding=None),
}

LOOSE: dict[str, Case] = {
    "separable": operator_case(lambda: Separable(Line((0.3, 0.5, 0.2), -1, 1, "reflect"), 0.05)),
    "composed": operator_case(
        lambda: OPERATORS["block-average"](2) @ OPERATORS["inpaint-mask"](pixel_mask())
    ),
    "diagonal": operator_case(lambda: diagonal(2, 5), (2, 5)),
    "matrix": operator_case(lambda: Matrix(draw(M, D, stream=51)), (D,)),
    "filter": operator_case(lambda: Filter(torch.tensor([0.2, 0.5, 0.2]), 2), (2, 12)),
    "low-pass": operator_case(lambda: LowPass(4), (1, 32)),
    "band-limit": operator_case(lambda: BandLimit(3000, 16000), (1, 32)),
    "reverb": operator_case(lambda: Reverb(torch.tensor([1.0, 0.0, 0.5])), (1, 16)),
    "time-mask": operator_case(lambda: TimeMask(draw(16, stream=48) > 0), (2, 16)),
    "time-mask-shared": operator_case(lambda: TimeMask(gaps([(2, 5)], 16)), (1, 16)),
    "spectrogram-mask": operator_case(lambda: SpectrogramMask(draw(4, 4, stream=49) > 0), (2, 16)),
    "spectrogram-mask-each": operator_case(
        lambda: SpectrogramMask(draw(3, 4, stream=50) > 0), (1, 12)
    ),
    "stems": operator_case(lambda: Stems(3), (3, 8)),
    "clipping": operator_case(lambda: Clipping(0.5), (1, 16)),
    "deepinv": operator_case(lambda: DeepinvOperator(Halve(), -1.0, 1.0), (D,)),
    "deepinv-linear": operator_case(lambda: DeepinvLinear(Halve(), -1.0, 1.0, 1e-12, 50), (D,)),
}
