"""Cases of costs and regularizers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctrlgen.costs import (
    BlackBoxCost,
    ChebyshevCost,
    ClassifierCost,
    Cost,
    FunctionCost,
    LevelSet,
    NegativePSNR,
    PropertyCost,
    Reversed,
    ScaledCost,
    SquaredError,
    SumCost,
    ThroughCodec,
)
from ctrlgen.domains.audio.costs import (
    ChromaTarget,
    Continuation,
    Loop,
    LoudnessCurve,
    MelDistance,
    Spectra,
)
from ctrlgen.domains.molecules.composition import CompositionCost
from ctrlgen.domains.molecules.costs import FragmentCost, SimilarityCost, ValenceCost
from ctrlgen.domains.molecules.screening import Standing
from ctrlgen.domains.molecules.uncertainty import HeadCovariance, UncertaintyCost
from ctrlgen.methods.regularizers import Chi, GaussianNLL, Regularizer, TargetNLL
from ctrlgen.operators.base import Operator
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
from tests.laws.cases.base import MASK, RATES, Case, D, Outputs, draw, pick
from tests.laws.cases.operators import diagonal


def cost_case(build: Callable[[], Cost], *kinds: type, shape: tuple[int, ...] = (D,)) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        return {"value": pick(build(), index, dtype)(pick(draw(*shape), index, dtype))}

    return Case(kinds or type(build()), rows, (build(), draw(*shape)), part=build)


def measured(*shape: int) -> tuple[Operator, Tensor]:
    return diagonal(*shape), draw(*shape, stream=37)


def classifier(x: Tensor) -> Tensor:
    return torch.sin(x.flatten(1)[:, :5]) * 3


def distance(x: Tensor, c: Tensor) -> Tensor:
    return (x - c).square().flatten(1).sum(1)


COSTS: dict[str, Case] = {
    "squared-error": cost_case(lambda: SquaredError(*measured(D))),
    "squared-error-sequence": cost_case(lambda: SquaredError(*measured(2, 5)), shape=(2, 5)),
    "psnr": cost_case(lambda: NegativePSNR(*measured(D))),
    "psnr-projected": cost_case(
        lambda: NegativePSNR(*measured(3, 2, 2), projected=True), shape=(3, 2, 2)
    ),
    "reversed": cost_case(lambda: Reversed(draw(4, 5, stream=38)), shape=(4, 5)),
    "level-set": cost_case(lambda: LevelSet(lambda x: x.flatten(1).mean(1), 0.3)),
    "level-set-rows": cost_case(lambda: LevelSet(lambda x: x.mean(1), RATES)),
    "classifier": cost_case(lambda: ClassifierCost(classifier, torch.tensor([0, 4, 2, 2]))),
    "function": cost_case(lambda: FunctionCost(distance, {"c": draw(D, stream=39)})),
    "sum": cost_case(
        lambda: Reversed(draw(D)) * 0.5 + SquaredError(*measured(D)), SumCost, ScaledCost
    ),
    "scaled-rows": cost_case(lambda: SquaredError(*measured(D)) * RATES),
    "property": cost_case(
        lambda: PropertyCost(
            lambda x: x[:, :3],
            draw(3, stream=41),
            draw(3, stream=41) + 0.1,
            scale=[1.0, 2.0, 0.5],
            weights=0.7,
        )
    ),
    "property-extreme": cost_case(lambda: PropertyCost.extreme(lambda x: x.mean(1), 2.0)),
    "chebyshev": cost_case(
        # one direction per row, and a network that is asked once for all
        lambda: ChebyshevCost(
            PropertyCost(lambda x: x[:, :3], draw(3, stream=41), draw(3, stream=41)),
            draw(3, stream=46).square(),
            draw(3, stream=47),
            smoothing=0.1,
        )
    ),
    "chebyshev-several": cost_case(
        lambda: ChebyshevCost([Reversed(draw(D)), SquaredError(*measured(D))], [0.3, 0.7])
    ),
    "black-box": Case(
        BlackBoxCost,
        lambda index, dtype: {
            "value": BlackBoxCost(lambda x: x.sum(1))(pick(draw(D), index, dtype))
        },
    ),
    "standing": Case(
        Standing,
        lambda index, dtype: {
            "value": Standing(lambda x: x.sum((1, 2)), "qm9")(pick(draw(4, 8), index, dtype))
        },
    ),
    "uncertainty": cost_case(
        lambda: UncertaintyCost(
            lambda x: x.sin(),
            HeadCovariance(
                torch.full((D,), 0.2),
                torch.full((D,), 0.7),
                torch.ones(D, D).tril() / D,
                torch.tensor([1.0, 2.0]),
                torch.tensor([0.5, 3.0]),
                torch.tensor([2.0, 2.0]),
            ),
            [1, 0],
        )
    ),
    "composition": cost_case(
        lambda: CompositionCost({"N": (0, 0.2), "C": (3, 4)}, "qm9", "soft"), shape=(4, 8)
    ),
    "fragment": cost_case(
        lambda: FragmentCost(draw(3, 3, stream=42), torch.eye(5)[:3] > 0, types="soft"),
        shape=(4, 8),
    ),
    "valence": cost_case(
        # broad bonds: the law's random atoms lie apart, where sharp ones have no slope
        lambda: ValenceCost("qm9", width=0.5, slack=0.0, types="soft"),
        shape=(4, 8),
    ),
    "similarity": cost_case(
        lambda: SimilarityCost(draw(3, 8, stream=43), "qm9", types="soft"), shape=(4, 8)
    ),
    "spectra": cost_case(lambda: Spectra(draw(1, 64, stream=45), (16, 32)), shape=(1, 64)),
    "mel": cost_case(lambda: MelDistance(draw(1, 64, stream=45), 800, 8, 32), shape=(1, 64)),
    "continuation": cost_case(lambda: Continuation(draw(1, 8, stream=45)), shape=(1, 32)),
    "loop": cost_case(lambda: Loop(4), shape=(1, 32)),
    "loudness-curve": cost_case(lambda: LoudnessCurve(draw(4, stream=45)), shape=(1, 32)),
    "chroma": cost_case(
        lambda: ChromaTarget(draw(12, 2, stream=45).square(), 800, 64), shape=(1, 128)
    ),
    "through-codec": cost_case(
        lambda: Reversed(draw(D, stream=40)).through(Scaled(2.0, 0.1)), ThroughCodec
    ),
}


def regularizer_case(regularizer: Regularizer, source: Source, shape: tuple[int, ...]) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        x, integral = pick(draw(*shape), index, dtype), pick(RATES, index, dtype)
        return {"value": pick(regularizer, index)(x, pick(source, index), integral)}

    gradient = (lambda x: regularizer(x, source, RATES.to(x)), draw(*shape))
    return Case(type(regularizer), rows, gradient, part=lambda: regularizer)


REGULARIZERS: dict[str, Case] = {
    "chi": regularizer_case(Chi(0.3), Gaussian((D,)), (D,)),
    "chi-masked": regularizer_case(Chi(0.3), MaskedGaussian(MASK, 5), (4, 5)),
    "gaussian": regularizer_case(GaussianNLL(0.3), Gaussian((2, 3)), (2, 3)),
    "target": regularizer_case(TargetNLL(0.3), MaskedGaussian(MASK, 5), (4, 5)),
}
