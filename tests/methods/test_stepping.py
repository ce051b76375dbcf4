"""What all stepped methods share: rows that fail, observers, starts, histories, contracts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ctrlgen.costs import Cost, FunctionCost, Reversed, SquaredError
from ctrlgen.methods import (
    DAPS,
    DDRM,
    DPS,
    FTM,
    NDTM,
    TFG,
    ClassifierGuidance,
    Method,
    PnPFlow,
    REDDiff,
)
from ctrlgen.methods.stepping import RuledMethod, Run
from ctrlgen.operators.matrix import Matrix
from ctrlgen.optimizers import Event
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import UnknownName
from ctrlgen.rows.seeds import normal
from ctrlgen.rows.status import Status
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform, ddpm
from ctrlgen.sampling.steps import DDIM, EDMStep, HeunStep, walk
from ctrlgen.testing.oracles import gaussian

Build = Callable[..., Any]
D = 3
SEEDS = [11, 5, 7, 2]
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def rows(*shape: int, stream: int = 21) -> Tensor:
    return normal(SEEDS, shape, stream, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Plain(RuledMethod):
    """Unguided sampling, as a method."""

    control: ClassVar[str] = "nothing"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"few": {"grid": Uniform(2)}}

    def update(self, run: Run, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            seen = run.predict(x, run.levels[step])
            return run.move(seen.data, seen.noise, step), run.value(seen.data)


def test_it_is_a_walk_from_the_source(mixture: Build, prior_of: Build) -> None:
    prior = prior_of(mixture(2, D))
    result = Plain(grid=Uniform(6), rule=DDIM(0.5), **DOUBLE)(prior, Reversed(rows(D)), seeds=SEEDS)
    levels = Uniform(6)(CondOT())
    x0 = prior.start(SEEDS, **DOUBLE)
    expected = walk(prior, x0, levels, DDIM(0.5), torch.tensor(SEEDS))
    assert torch.equal(result.samples, expected) and torch.equal(result.controls, expected)
    assert torch.equal(result.costs, Reversed(rows(D))(expected))
    assert result.history["cost"].shape == (7, 4)
    assert torch.equal(result.history["cost"][-1], result.costs)
    assert result.history["evaluations"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 6]
    assert result.seeds.tolist() == SEEDS and not result.samples.requires_grad


def test_the_clock_reads_the_prior_by_its_noise_ratio(mixture: Build, prior_of: Build) -> None:
    """The same samples on both clocks: the step is the same on every path."""
    prior, cost = prior_of(mixture(2, D)), Reversed(rows(D))
    method = Plain(grid=DDPMUniform(8, 800), **DOUBLE)
    here = method(prior, cost, seeds=SEEDS)
    there = replace(method, clock=ddpm())(prior, cost, seeds=SEEDS)
    assert prior.flow.path is prior.flow.native  # the user's prior is as it was
    first = method.grid(CondOT())[0]
    scale = math.hypot(first.alpha, first.sigma)  # both start from hypot(α, σ) z
    assert scale < 1
    assert torch.allclose(here.samples, there.samples, rtol=0, atol=1e-8)


@pytest.mark.parametrize("codec", [None, Scaled(2.0, 0.3)], ids=["identity", "scaled"])
def test_a_guided_start_mixes_the_pseudo_inverse(
    codec: Any, matrix_operator: Build, mixture: Build, prior_of: Build
) -> None:
    operator = matrix_operator(normal([1], (2, D), 3, dtype=torch.float64)[0])
    plain = prior_of(mixture(1, D))
    prior = Prior(plain.flow, plain.source, codec)
    cost = SquaredError(operator, rows(2))
    method = Plain(grid=Uniform(4, start=0.4), start="guided", **DOUBLE)
    run = Run(prior, cost, cost.measurement, torch.tensor(SEEDS), method.grid(CondOT()))
    z = rows(D, stream=5)
    expected = 0.4 * prior.codec.encode(operator.pinv(rows(2))) + 0.6 * z
    assert torch.allclose(method.first_state(run, z), expected, rtol=0, atol=1e-12)
    assert method(prior, cost, seeds=SEEDS).samples.isfinite().all()


class Fragile(torch.nn.Module):
    """A velocity that breaks in rows of a flag, after some time."""

    def forward(self, x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        broken = (bad & (t > 0.45)).reshape(-1, 1)
        return torch.where(broken, torch.nan, torch.tanh(x))


def fragile(bad: list[bool]) -> Prior:
    return Prior(Flow(Fragile(), CondOT()), Gaussian((D,)), None, {"bad": torch.tensor(bad)})


METHODS: list[Any] = [
    Plain(grid=Uniform(5), **DOUBLE),
    DPS(grid=DDPMUniform(5), rho=0.1, **DOUBLE),
    TFG(grid=DDPMUniform(5), rho=0.1, mu=0.1, recurrences=2, **DOUBLE),
    NDTM(grid=DDPMUniform(5), iterations=2, **DOUBLE),
    FTM(grid=Uniform(5), iterations=2, **DOUBLE),
    ClassifierGuidance(grid=DDPMUniform(5), scale=0.1, **DOUBLE),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_row_that_breaks_keeps_its_last_finite_state(method: Method) -> None:
    cost = FunctionCost(lambda x, y: (x - y).square().sum(1), {"y": rows(D)})
    broken = method(fragile([False, True, False, False]), cost, seeds=SEEDS)
    well = method(fragile([False] * 4), cost, seeds=SEEDS)
    finished, lost = int(Status.FINISHED), int(Status.DIVERGED)
    assert broken.status.tolist() == [finished, lost, finished, finished]
    assert broken.samples.isfinite().all() and broken.costs.isfinite().all()
    others = torch.tensor([0, 2, 3])
    assert torch.equal(broken.samples[others], well.samples[others])
    assert broken.iterations[1] < broken.iterations[0] == well.iterations[0]
    assert broken.evaluations[1] < broken.evaluations[0]
    assert broken.history["cost"].isfinite().all()
    assert broken.history["cost"][-1, 1] == broken.history["cost"][int(broken.iterations[1]) - 1, 1]


@pytest.mark.parametrize("cost_of_end", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_at_the_end_marks_its_row(cost_of_end: float) -> None:
    class Late(Cost):
        per_sample = ("late",)

        def __init__(self) -> None:
            self.late = torch.tensor([False, True, False, False])
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            value = x.square().sum(1)
            over = self.late & (not torch.is_grad_enabled()) & (x.abs().amax(1) > 0)
            return torch.where(over, cost_of_end, value)

    result = DPS(grid=DDPMUniform(3), rho=0.1, **DOUBLE)(fragile([False] * 4), Late(), seeds=SEEDS)
    assert result.status.tolist() == [8, 7, 8, 8] and result.samples.isfinite().all()
    assert result.summary()["cost"]["worst"] == math.inf


def test_observers_hear_every_step(mixture: Build, prior_of: Build) -> None:
    events: list[Event] = []
    method = Plain(grid=Uniform(3), **DOUBLE)
    result = method(
        fragile([False, True, False, False]),
        lambda x: x.square().sum(1),
        seeds=SEEDS,
        observer=events.append,
    )
    assert [e.round for e in events] == [1, 2, 3]
    assert events[0].rows.tolist() == [0, 1, 2, 3] and events[-1].rows.tolist() == [0, 2, 3]
    assert torch.equal(events[1].value, result.history["cost"][1])
    assert events[0].status.tolist() == [int(Status.RUNNING)] * 4


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_single_precision_is_the_default(method: Any) -> None:
    prior = Prior(Flow(lambda x, t: torch.tanh(x), CondOT()), Gaussian((2, D)))
    single = replace(method, dtype=type(method)().dtype)
    result = single(prior, lambda x: x.square().flatten(1).sum(1), seeds=SEEDS)
    assert result.samples.dtype == torch.float32 and result.samples.shape == (4, 2, D)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_states_stay_where_the_source_has_them(method: Method) -> None:
    """Padded points are zero and centres of mass at rest, though cost and network ignore both."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    source = MaskedGaussian(mask, 3)
    prior = Prior(Flow(lambda x, t: torch.tanh(x) + 0.3, CondOT()), source)
    result = method(prior, Reversed(rows(4, 3)), seeds=SEEDS)
    assert torch.allclose(source.project(result.samples), result.samples, rtol=0, atol=1e-12)
    assert result.samples.abs().max() > 0.1


def test_presets_by_name() -> None:
    assert Plain.preset("few", rule=DDIM(0.1)) == Plain(grid=Uniform(2), rule=DDIM(0.1))
    with pytest.raises(UnknownName, match="few"):
        Plain.preset("many")
    for kind in (NDTM, FTM, DPS, TFG, DDRM):
        for name in kind.presets:
            assert isinstance(kind.preset(name), kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"grid": 50}, TypeError, "grid"),
        ({"clock": "ddpm"}, TypeError, "clock"),
        ({"rule": 0.5}, TypeError, "rule"),
        ({"rule": HeunStep()}, ValueError, "single prediction"),
        ({"rule": EDMStep()}, ValueError, "single prediction"),
        ({"start": "noise"}, ValueError, "start"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"dtype": torch.int64}, ValueError, "dtype"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Plain(**settings)


def test_bad_seeds_and_rows() -> None:
    cost = Reversed(rows(D))
    with pytest.raises(ValueError, match="samples"):
        Plain()(fragile([False] * 3), cost, seeds=SEEDS[:3])
    with pytest.raises(ValueError, match="seeds"):
        Plain()(fragile([False] * 4), cost, seeds=SEEDS[:3])
    with pytest.raises(ValueError, match="seeds"):
        Plain()(fragile([False] * 4), cost, seeds=[-1])


@pytest.mark.parametrize(
    "method",
    [
        DPS(grid=DDPMUniform(3), rule=DDIM(1.0), **DOUBLE),
        PnPFlow(grid=Uniform(3), draws=2, **DOUBLE),
        REDDiff(grid=DDPMUniform(3), **DOUBLE),
        DAPS(grid=Karras(3, 0.1, 10.0), ode_steps=1, langevin_steps=1, **DOUBLE),
    ],
    ids=lambda method: type(method).__name__,
)
def test_fresh_noise_is_joined_with_data_as_the_source_says(method: Method) -> None:
    """By its signs here; a source that joins nothing is as a Gaussian."""

    class Toward(Gaussian):
        asked = False

        @property
        def couples(self) -> bool:
            return self.asked

        def coupled(self, noise: Tensor, data: Tensor) -> Tensor:
            return noise.abs() * data.sign() if self.asked else noise

    source = Toward((D,))
    prior = Prior(gaussian(torch.zeros(D).double(), torch.eye(D).double()).flow(), source)
    cost = SquaredError(Matrix(torch.eye(D).double()), rows(D), 0.5)
    plain = method(prior, cost, seeds=SEEDS).samples
    source.asked = True
    assert not torch.allclose(method(prior, cost, seeds=SEEDS).samples, plain)
    prior.source = Gaussian((D,))
    assert torch.equal(method(prior, cost, seeds=SEEDS).samples, plain)
