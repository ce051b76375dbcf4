"""Cases of what else holds rows: projections, tables of a search, molecules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ctrlgen.comparison.judges import Judge, Likelihood, Misfit, Own, Psnr, Residual
from ctrlgen.domains.audio.filling import Rows, Source
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.front_search import Places
from ctrlgen.domains.molecules.lead_optimization import Ball
from ctrlgen.domains.molecules.molecule_batches import Generated
from ctrlgen.methods.projections import Normalize
from ctrlgen.priors import CondOT, Flow, Gaussian, MaskedGaussian, Prior
from tests.laws.cases.base import MASK, RATES, SEEDS, Case, Outputs, Vector, draw, pick
from tests.laws.cases.operators import Diagonal


def normalize_case(isotropic: bool) -> Case:
    normalize = Normalize(MASK, isotropic=isotropic)

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        return {"x": pick(normalize, index)(pick(draw(4, 5), index, dtype))}

    return Case(Normalize, rows, (normalize, draw(4, 5)), part=lambda: normalize)


def ball_case() -> Case:
    ball = Ball(draw(4, 5, stream=44), RATES)

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        return {"x": pick(ball, index)(pick(draw(4, 5), index, dtype))}

    return Case(Ball, rows, (ball, draw(4, 5)), part=lambda: ball)


def found_case() -> Case:
    def build() -> Generated:
        table = draw(2, 8, stream=46)
        numbers = {key: SEEDS.clone() for key in Generated.per_sample}
        return Generated(**{**numbers, "samples": table, "controls": table, "costs": RATES})

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        found = pick(build(), index, dtype)
        return {key: getattr(found, key) for key in Generated.per_sample}

    return Case(Generated, rows, rounding=None, part=build)


def molecules_case() -> Case:
    def build() -> Molecules:
        classes = torch.where(MASK, 2, -1)
        return Molecules(draw(4, 3, stream=47), classes, MASK.sum(1), {"mu": RATES}, SEEDS)

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        held = pick(build(), index, dtype)
        return {"x": held.positions, "h": held.classes, "mu": held.properties["mu"]}

    return Case(Molecules, rows, rounding=None, part=build)


def places_case() -> Case:
    """The directions of a front; all seeds of the run are told to every row."""

    def build() -> Places:
        return Places(SEEDS.tolist())

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        held = pick(build(), index, dtype)
        own = torch.tensor(held.seeds, device=index.device)[held.places]
        return {"place": held.places, "seed": own}

    return Case(Places, rows, rounding=None, part=build)


def sound_rows_case() -> Case:
    """Two takes of two files; where a row belongs says all of it."""

    def build() -> Rows:
        sources = [Source(Path(name), name, (0,)) for name in ("a.wav", "b.wav")]
        return Rows("inpaint", sources, (), (16000, 6400), 2)

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        places = torch.tensor(list(pick(build(), index, dtype).places()), device=index.device)
        return dict(zip(("source", "take", "row"), places.T, strict=True))

    return Case(Rows, rows, rounding=None, part=build)


def judge_case(build: Callable[[], Judge]) -> Case:
    """What compared samples are judged by."""

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        value = pick(build(), index, dtype)(pick(draw(4, 5), index, dtype))
        return {"value": value.to(dtype)}  # it may be measured in double

    return Case(type(build()), rows, part=build)


def likelihood() -> Likelihood:
    return Likelihood(Prior(Flow(Vector(), CondOT()), Gaussian((4, 5))), SEEDS)


TRUTH = draw(4, 5, stream=48)
RAGGED = Prior(Flow(Vector(), CondOT()), MaskedGaussian(MASK, 5), conditions={"mask": MASK})
JUDGES = {
    "judge-psnr": judge_case(lambda: Psnr(TRUTH, MASK.unsqueeze(2).expand(4, 4, 5))),
    "judge-own": judge_case(lambda: Own(lambda x, truth: (x * truth).mean((1, 2)), TRUTH)),
    "judge-residual": judge_case(lambda: Residual(Diagonal(TRUTH), TRUTH, 0.1)),
    "judge-misfit": judge_case(lambda: Misfit(Diagonal(TRUTH), TRUTH, 0.1, RAGGED)),
    "judge-likelihood": judge_case(likelihood),
}


PROJECTIONS: dict[str, Case] = {
    "columns": normalize_case(False),
    "isotropic": normalize_case(True),
    "ball": ball_case(),
}


ROW_HOLDERS = {
    **JUDGES,
    "found": found_case(),
    "molecules": molecules_case(),
    "places": places_case(),
    "sound-rows": sound_rows_case(),
}
