"""Every component of the library, as a case on which the laws are tried.

A case knows how to compute what its component makes of some rows of four samples: the component is
built for all four and restricted with `take`, its input is sliced. The laws themselves are in the
test modules; whoever adds a component adds a case here (`test_completeness` says so).
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import ctrlgen
import ctrlgen.costs
import ctrlgen.domains
from ctrlgen.adapters.azula import SchedulePath
from ctrlgen.adapters.deepinv import DeepinvLinear, DeepinvOperator
from ctrlgen.adapters.latent import AutoencoderCodec
from ctrlgen.costs import (
    BlackBoxCost,
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
from ctrlgen.domains.audio.filters import BandLimit, Filter, LowPass, Reverb
from ctrlgen.domains.audio.operators import Clipping, TimeMask, gaps
from ctrlgen.domains.audio.operators import Mixture as Stems
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.domains.images.operators import OPERATORS, Separable
from ctrlgen.domains.images.operators.separable import Line
from ctrlgen.domains.images.tiles import Canvas
from ctrlgen.domains.molecules.composition import CompositionCost
from ctrlgen.domains.molecules.costs import FragmentCost, SimilarityCost, ValenceCost
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.leads import Ball, Given
from ctrlgen.domains.molecules.ragged import Found
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
from ctrlgen.methods import (
    CTDTM,
    DAPS,
    DDRM,
    DPS,
    FTM,
    LGDMC,
    MPGD,
    NDTM,
    OTODE,
    TFG,
    UGD,
    AncestralPiGDM,
    BlindNDTM,
    ClassifierGuidance,
    CPiGDM,
    CPiGFM,
    DFlow,
    DMPlug,
    FlowGrad,
    FlowPriors,
    FreeDoM,
    OCFlow,
    OptimalControl,
    PiGDM,
    PnPFlow,
    REDDiff,
)
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.controls.blind import BlindBlur
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi, GaussianNLL, Regularizer, TargetNLL
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.operators.base import LinearOperator, Measurement, Operator, Spectrum
from ctrlgen.optimizers import (
    LBFGS,
    Adam,
    FunctionObjective,
    GradientDescent,
    Optimizer,
    WindowedVariance,
)
from ctrlgen.priors.codecs import Codec, Identity, Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import EDM, VP, CondOT, Cosine, DiscreteVP, Path
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
from ctrlgen.rows.batching import PerSample, take
from ctrlgen.rows.constants import follow
from ctrlgen.rows.seeds import normal, uniform
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform
from ctrlgen.sampling.steps import DDIM
from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint, Solver, Velocity
from ctrlgen.testing.oracles import Mixture

ROWS = 4
SEEDS = torch.tensor([7, 3, 11, 2])
D, M = 6, 3
IMAGE = (3, 16, 16)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)

PLACES = torch.tensor([[0, 0], [5, 3], [2, 1], [0, 3]])

Outputs = dict[str, Tensor]


def draw(*shape: int, stream: int = 31, dtype: torch.dtype = torch.float64) -> Tensor:
    """Four rows of standard normal numbers."""
    return normal(SEEDS, shape, stream, dtype=dtype)


STAYING = [False]
"""Whether `pick` leaves components on the host, so that their constants must follow the input."""


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Within, components are not moved to the device of their input."""
    STAYING[0] = True
    try:
        yield
    finally:
        STAYING[0] = False


def pick(value: Any, index: Tensor, dtype: torch.dtype | None = None) -> Any:
    """Rows of a tensor or a component, on the device of the index, floating point in a dtype."""
    rows = take(value, index.cpu())
    if STAYING[0] and not isinstance(value, Tensor):
        return rows
    if isinstance(rows, Tensor) and not rows.is_floating_point():
        dtype = None
    return rows.to(device=index.device, dtype=dtype)


@dataclass(frozen=True)
class Case:
    """A component under the laws.

    Attributes:
        kind: its class, or the classes that it covers.
        rows: what it makes of the rows of an index, by name, on the device of the index; all
            float64 unless told.
        gradient: a function of states, and states (B, *) at which its gradient may not vanish.
        heavy: whether a few indices must do.
        rounding: agreement of float32 with float64, relative to the size; None where it rounds.
        part: builds the component itself, where it holds data of samples.
        method: the method itself, where the case is of one.
        problem: method, prior and cost of the rows of an index, where the component is a method.
        made: the component itself, where it is made already and is no method.
    """

    kind: type | tuple[type, ...]
    rows: Callable[[Tensor, torch.dtype], Outputs]
    gradient: tuple[Callable[[Tensor], Tensor], Tensor] | None = None
    heavy: bool = False
    rounding: float | None = 1e-4
    part: Callable[[], PerSample] | None = None
    method: Any = None
    problem: Callable[[Tensor, torch.dtype], tuple[Any, Prior, Cost]] | None = None
    made: Any = None

    @property
    def component(self) -> Any:
        """The component itself, None where the case makes it as it goes."""
        if self.part is not None:
            return self.part()
        return self.method if self.made is None else self.made

    @property
    def kinds(self) -> tuple[type, ...]:
        return self.kind if isinstance(self.kind, tuple) else (self.kind,)


# ------------------------------------------------------------------ parts to work with


class Vector(nn.Module):
    """A small velocity of states of any shape, elementwise but for a mean over the state."""

    def forward(self, x: Tensor, t: Tensor, rate: Tensor | None = None) -> Tensor:
        wide = (-1, *(1,) * (x.ndim - 1))
        mean = x.flatten(1).mean(1).reshape(wide)
        slope = torch.tanh(x + mean) - t.reshape(wide) * x
        return slope if rate is None else follow(rate, x).reshape(wide) * slope


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


def schedule(tau: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(1.5 * tau), torch.sin(1.5 * tau + 0.02)


def mixture() -> Mixture:
    root = normal([1, 2, 3], (D, D), 4, dtype=torch.float64) / 3
    eye = 0.2 * torch.eye(D, dtype=torch.float64)
    return Mixture(normal([4, 5, 6], (D,), dtype=torch.float64), root @ root.mT + eye)


# ------------------------------------------------------------------ cases, base by base


def path_case(path: Path) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        t = pick(uniform(SEEDS, (1,), 5, dtype=torch.float64).squeeze(1), index, dtype)
        at = path(t)
        back = path.time_at(at.log_snr)
        return {**at._asdict(), "wronskian": at.wronskian, "gamma": at.gamma, "back": back}

    times = 0.2 + 0.6 * uniform(SEEDS, (1,), 5, dtype=torch.float64).squeeze(1)
    # Every element is the same function of its own time.
    form = lambda t: path(t).alpha + path(t).sigma ** 2  # noqa: E731
    return Case(type(path), rows, (form, times), made=path)


PATHS = {
    "condot": CondOT(),
    "cosine": Cosine(),
    "vp": VP(),
    "ddpm": DiscreteVP.linear(),
    "edm": EDM(0.01, 20.0),
    "schedule": SchedulePath(schedule),
}


class Rated:
    """A velocity function with a rate of its own for every row, which leaves with it."""

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return Vector()(x, t, self.rate)

    def take(self, index: Tensor) -> Rated:
        return Rated(take(self.rate, index))


RATES = torch.tensor([0.2, 2.0, 1.0, 4.0], dtype=torch.float64)


def solver_case(solver: Solver) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        velocity = Velocity(Rated(pick(RATES, index)))
        x = pick(draw(D), index, dtype)
        return {"end": solver(velocity, x), "source": solver.invert(velocity, x, 0.2)}

    return Case(
        type(solver), rows, (lambda x: solver(Velocity(Rated(RATES)), x), draw(D)), heavy=True,
        made=solver,
    )  # fmt: skip


SOLVERS: dict[str, Solver] = {
    "euler": Euler(5),
    "midpoint": Midpoint(3),
    "midpoint-checkpoint": Midpoint(3, "checkpoint"),
    "midpoint-adjoint": Midpoint(3, "adjoint"),
    "heun": Heun(grid=[0.0, 0.2, 1.0]),
    "rk4": RK4(2),
    "dopri5": Dopri5(1e-6, 1e-6),
}


def optimizer_case(optimizer: Optimizer) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        centre, scale = draw(D), 1 + draw(D, stream=33).square()

        def bowl(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
            return (scale * (x - centre).square() + 0.1 * (x - centre) ** 4).sum(1)

        objective = pick(FunctionObjective(bowl, centre=centre, scale=scale), index, dtype)
        start = pick(draw(D, stream=34), index, dtype)
        found = optimizer.minimize(objective, start, target=0.05)
        return {
            "x": found.x,
            "value": found.value,
            "gradient": found.gradient_norm,
            "status": found.status,
            "iterations": found.iterations,
            "calls": found.calls,
            "first": found.history["value"][:3].T,
        }

    kinds = (type(optimizer), FunctionObjective)
    return Case(kinds, rows, heavy=True, rounding=1e-3, made=optimizer)


OPTIMIZERS: dict[str, Optimizer] = {
    "lbfgs": LBFGS(max_iterations=20),
    "adam": Adam(learning_rate=0.05, max_iterations=20),
    "gradient-descent": GradientDescent(learning_rate=0.02, momentum=0.5, max_iterations=20),
    "adam-early": Adam(learning_rate=0.05, max_iterations=20, early=WindowedVariance(3, 4)),
}


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
    "filter": operator_case(lambda: Filter(torch.tensor([0.2, 0.5, 0.2]), 2), (2, 12)),
    "low-pass": operator_case(lambda: LowPass(4), (1, 32)),
    "band-limit": operator_case(lambda: BandLimit(3000, 16000), (1, 32)),
    "reverb": operator_case(lambda: Reverb(torch.tensor([1.0, 0.0, 0.5])), (1, 16)),
    "time-mask": operator_case(lambda: TimeMask(draw(16, stream=48) > 0), (2, 16)),
    "time-mask-shared": operator_case(lambda: TimeMask(gaps([(2, 5)], 16)), (1, 16)),
    "stems": operator_case(lambda: Stems(3), (3, 8)),
    "clipping": operator_case(lambda: Clipping(0.5), (1, 16)),
    "deepinv": operator_case(lambda: DeepinvOperator(Halve(), -1.0, 1.0), (D,)),
    "deepinv-linear": operator_case(lambda: DeepinvLinear(Halve(), -1.0, 1.0, 1e-12, 50), (D,)),
}


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
    "black-box": Case(
        BlackBoxCost,
        lambda index, dtype: {
            "value": BlackBoxCost(lambda x: x.sum(1))(pick(draw(D), index, dtype))
        },
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


def source_case(source: Source) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        part, seeds = pick(source, index), pick(SEEDS, index)
        x = pick(draw(*source.shape), index, dtype)
        return {
            "sample": part.sample(seeds, dtype=dtype),
            "other": part.sample(seeds, 9, dtype=dtype),
            "project": part.project(x),
            "freedom": part.degrees_of_freedom(x),
            "radius": part.radius(x),
            "gaussian": part.gaussian_nll(x),
            "chi": part.chi_nll(x),
        }

    gradient = (source.chi_nll, draw(*source.shape))
    return Case(type(source), rows, gradient, part=lambda: source)


def codec_case(codec: Codec, shape: tuple[int, ...]) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        part, x = pick(codec, index), pick(draw(*shape), index, dtype)
        z = part.encode(x)
        return {"encode": z, "decode": part.decode(z), "log_det": part.log_det(z)}

    return Case(type(codec), rows, (codec.decode, draw(*shape)), part=lambda: codec)


class Autoencoder(nn.Module):
    """What diffusers calls an autoencoder, here of two channels, elementwise."""

    config: ClassVar = {
        "scaling_factor": 0.5,
        "latents_mean": [0.1, 0.2],
        "latents_std": [1.0, 2.0],
    }

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=torch.sinh(x))

    def decode(self, z: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.asinh(z))


def autoencoder_case() -> Case:
    codec = AutoencoderCodec(Autoencoder())

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        part, x = pick(codec, index), pick(draw(2, 3, 3), index, dtype)
        z = part.encode(x)
        return {"encode": z, "decode": part.decode(z)}

    return Case(AutoencoderCodec, rows, (codec.decode, draw(2, 3, 3)), part=lambda: codec)


def conditional_prior(dtype: torch.dtype = torch.float64) -> Prior:
    flow = Flow(Vector(), Cosine(), "v")
    return Prior(flow, Gaussian((D,)), Scaled(1.5, 0.1), {"rate": RATES.to(dtype)})


CONDITIONAL = conditional_prior()


def prior_rows(index: Tensor, dtype: torch.dtype) -> Outputs:
    prior = pick(conditional_prior(dtype), index)
    seeds, device = pick(SEEDS, index), index.device
    x0 = prior.start(seeds, dtype=dtype, device=device)
    x = prior.generate(x0, Midpoint(3))
    t = x0.new_full((len(index),), 0.4)
    seen = prior.predict(x, t)
    return {
        "start": x0,
        "generate": x,
        "sample": prior.sample(seeds, Midpoint(3), dtype=dtype, device=device),
        "encode": prior.encode(x, Midpoint(3)),
        **{name: getattr(seen, name) for name in ("velocity", "data", "noise", "score", "v")},
    }


def initializer_case(initializer: Initializer) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        prior, seeds = pick(conditional_prior(dtype), index), pick(SEEDS, index)
        operator, y = measured(D)
        given = Measurement(pick(operator, index, dtype), pick(y, index, dtype), 0.1)
        z = prior.start(seeds, dtype=dtype, device=index.device)
        return {"x0": initializer(prior, given, seeds, z)}

    return Case(type(initializer), rows, heavy=True, rounding=1e-3, made=initializer)


def method_cost(dtype: torch.dtype = torch.float64) -> Cost:
    """What methods are tried on: a linear measurement."""
    return (0.1 * SquaredError(*measured(D), noise=0.1)).to(dtype)


Problem = Callable[[Tensor, torch.dtype], tuple[Any, Prior, Cost]]


def steered(problem: Problem) -> Callable[[Tensor, torch.dtype], Outputs]:
    """What a method makes of its problem."""

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        method, prior, cost = problem(index, dtype)
        return result_rows(method(prior, cost, seeds=pick(SEEDS, index)))

    return rows


def method_case(method: Any) -> Case:
    def problem(index: Tensor, dtype: torch.dtype) -> tuple[Any, Prior, Cost]:
        prior = pick(conditional_prior(dtype), index)
        cost = pick(method_cost(), index, dtype)
        return replace(method, dtype=dtype, device=index.device), prior, cost

    kinds = (type(method), Result)
    return Case(kinds, steered(problem), heavy=True, rounding=None, method=method, problem=problem)


def blind_case() -> Case:
    def build() -> BlindBlur:
        return BlindBlur(draw(1, D, stream=41), 3, kernel=torch.softmax(draw(3, stream=42), 1))

    def problem(index: Tensor, dtype: torch.dtype) -> tuple[Any, Prior, Cost]:
        prior = Prior(Flow(Vector(), Cosine(), "v"), Gaussian((1, D)))
        method = BlindNDTM(grid=FEW_STEPS, iterations=2, dtype=dtype, device=index.device)
        return method, prior, pick(build(), index, dtype)

    return Case(
        (BlindNDTM, BlindBlur),
        steered(problem),
        (build(), draw(1, D)),
        heavy=True,
        rounding=None,
        part=build,
        problem=problem,
    )


def result_rows(result: Result) -> Outputs:
    return {name: getattr(result, name) for name in result.per_sample}


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


def latent_audio_case() -> Case:
    def build(dtype: torch.dtype = torch.float64) -> LatentCodec:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = SpecCodec(hop=8, size=4, width=8, depth=1, kernel=3)
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.2)
        network = network.to(dtype).requires_grad_(False)
        mean, std = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
        return LatentCodec(network, mean, std, 32, torch.tensor([5, 3, 4, 5]))

    codecs = {dtype: build(dtype) for dtype in (torch.float64, torch.float32)}

    def there(x: Tensor) -> LatentCodec:
        part = copy.copy(codecs[x.dtype])
        part.network = copy.deepcopy(part.network).to(x.device)  # its owner moves a network
        return part

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        x = pick(draw(1, 32), index, dtype)
        part = pick(there(x), index)
        z = part.encode(x)
        return {"encode": z, "decode": part.decode(z)}

    def decode(z: Tensor) -> Tensor:
        return there(z).decode(z)

    return Case(LatentCodec, rows, (decode, draw(5, 4)), part=build)


def given_case() -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        prior, seeds = pick(conditional_prior(dtype), index), pick(SEEDS, index)
        z = prior.start(seeds, dtype=dtype, device=index.device)
        return {"x0": Given(pick(draw(D, stream=45), index))(prior, None, seeds, z)}

    return Case(Given, rows)


def found_case() -> Case:
    def build() -> Found:
        table = draw(2, 8, stream=46)
        numbers = {key: SEEDS.clone() for key in Found.per_sample}
        return Found(**{**numbers, "signals": table, "controls": table, "costs": RATES})

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        found = pick(build(), index, dtype)
        return {key: getattr(found, key) for key in Found.per_sample}

    return Case(Found, rows, rounding=None, part=build)


def molecules_case() -> Case:
    def build() -> Molecules:
        classes = torch.where(MASK, 2, -1)
        return Molecules(draw(4, 3, stream=47), classes, MASK.sum(1), {"mu": RATES}, SEEDS)

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        held = pick(build(), index, dtype)
        return {"x": held.positions, "h": held.classes, "mu": held.properties["mu"]}

    return Case(Molecules, rows, rounding=None, part=build)


FEW = LBFGS(max_iterations=5)
FEW_STEPS = DDPMUniform(3)
TABLES: dict[str, dict[str, Case]] = {
    "path": {name: path_case(path) for name, path in PATHS.items()},
    "solver": {name: solver_case(solver) for name, solver in SOLVERS.items()},
    "optimizer": {name: optimizer_case(optimizer) for name, optimizer in OPTIMIZERS.items()},
    "operator": {**REGISTERED, **LOOSE},
    "cost": COSTS,
    "regularizer": {
        "chi": regularizer_case(Chi(0.3), Gaussian((D,)), (D,)),
        "chi-masked": regularizer_case(Chi(0.3), MaskedGaussian(MASK, 5), (4, 5)),
        "gaussian": regularizer_case(GaussianNLL(0.3), Gaussian((2, 3)), (2, 3)),
        "target": regularizer_case(TargetNLL(0.3), MaskedGaussian(MASK, 5), (4, 5)),
    },
    "initializer": {
        "source": initializer_case(SourceSample()),
        "given": given_case(),
        "blend": initializer_case(Blend(0.3, rescale=True)),
        "guided": initializer_case(GuidedStart(3)),
        "refined": initializer_case(Refined(GuidedStart(3), 2)),
        "guided-adaptive": initializer_case(GuidedStart(3, solver=Dopri5(1e-5, 1e-5))),
    },
    "source": {
        "gaussian": source_case(Gaussian((D,))),
        "gaussian-image": source_case(Gaussian((3, 2, 4))),
        "masked": source_case(MaskedGaussian(MASK, 5)),
        "masked-free": source_case(MaskedGaussian(MASK, 5, coordinates=0)),
        "atoms": source_case(Atoms(4, 7, counts=MASK.sum(1))),
        "atoms-full": source_case(Atoms(3, 5)),
        "canvas": source_case(
            Canvas((3, 4, 5), (9, 8), torch.tensor([[0, 0], [5, 3], [2, 1], [0, 3]]))
        ),
        "frames": source_case(Frames(4, 5, MASK.sum(1))),
        "frames-full": source_case(Frames(3, 5)),
    },
    "codec": {
        "identity": codec_case(Identity(), (4, 5)),
        "scaled": codec_case(Scaled(2.0, -0.3), (D,)),
        "scaled-channels": codec_case(Scaled([2.0, 0.5, 3.0], [0.0, 1.0, -1.0]), (3, 4, 2)),
        "autoencoder": autoencoder_case(),
        "atoms": codec_case(AtomCodec(1.4, 0.2), (4, 7)),
        "latent-audio": latent_audio_case(),
    },
    "projection": {
        "columns": normalize_case(False),
        "isotropic": normalize_case(True),
        "ball": ball_case(),
    },
    "rows": {"found": found_case(), "molecules": molecules_case()},
    "prior": {
        "conditional": Case(
            Prior,
            prior_rows,
            (lambda x: CONDITIONAL.generate(x, Midpoint(3)), draw(D)),
            heavy=True,
            part=conditional_prior,
        )
    },
    "method": {
        "dflow": method_case(DFlow(optimizer=FEW)),
        "dflow-adam": method_case(
            DFlow(optimizer=Adam(max_iterations=5), regularizer=Chi(0.1), target=1.0)
        ),
        "dflow-guided": method_case(
            DFlow(
                optimizer=FEW,
                initializer=GuidedStart(3),
                regularizer=TargetNLL(0.1, probes=2),
                solver=Euler(2),
            )
        ),
        "ndtm": method_case(NDTM(grid=FEW_STEPS, iterations=2)),
        "ndtm-guided": method_case(
            NDTM(grid=FEW_STEPS, iterations=2, start="guided", weighting="ones", warm=True)
        ),
        "ctdtm": method_case(CTDTM(grid=FEW_STEPS, iterations=2)),
        "ftm": method_case(FTM(grid=Uniform(3), iterations=2)),
        "blind-ndtm": blind_case(),
        "tfg": method_case(
            TFG(grid=FEW_STEPS, gamma=0.1, iterations=2, recurrences=2, largest=0.1)
        ),
        "dps": method_case(DPS(grid=FEW_STEPS)),
        "lgd-mc": method_case(LGDMC(grid=FEW_STEPS, draws=2)),
        "mpgd": method_case(MPGD(grid=FEW_STEPS)),
        "freedom": method_case(FreeDoM(grid=FEW_STEPS, relative=True)),
        "ugd": method_case(UGD(grid=FEW_STEPS)),
        "classifier-guidance": method_case(ClassifierGuidance(grid=FEW_STEPS)),
        "ddrm": method_case(DDRM(grid=FEW_STEPS)),
        "red-diff": method_case(REDDiff(grid=FEW_STEPS, dispersion=0.1)),
        "dmplug": method_case(DMPlug(optimizer=Adam(max_iterations=3), clip=2.0)),
        "flow-priors": method_case(FlowPriors(grid=Uniform(2, start=1e-3), iterations=2)),
        "pnp-flow": method_case(PnPFlow(grid=Uniform(3), draws=2)),
        "daps": method_case(
            DAPS(grid=Karras(3, 0.1, 100.0), ode_steps=2, langevin_steps=2, noise=None)
        ),
        "pigdm": method_case(PiGDM(grid=truncated(3, 0.4))),
        "pigdm-original": method_case(AncestralPiGDM(grid=truncated(3, 0.9))),
        "cpigdm": method_case(CPiGDM(grid=truncated(3, 0.4), final="tweedie")),
        "cpigdm-released": method_case(CPiGDM(grid=truncated(3, 0.4), noisy="released")),
        "cpigfm": method_case(CPiGFM(grid=Uniform(3, 0.2), decay=0.2)),
        "otode": method_case(OTODE(grid=Uniform(3, 0.2))),
        "otode-heuristic": method_case(OTODE(grid=Uniform(3, 0.2), heuristic=True)),
        "optimal-control": method_case(
            OptimalControl(grid=Uniform(3), iterations=2, halvings=3, rank=2, rule=DDIM(0.5))
        ),
        "optimal-control-dense": method_case(
            OptimalControl(grid=Uniform(2), iterations=2, halvings=3, rank=None, side="output")
        ),
        "optimal-control-adam": method_case(
            OptimalControl(grid=Uniform(3), iterations=2, rank=1, update="adam")
        ),
        "flowgrad": method_case(
            FlowGrad(
                grid=Uniform(4),
                optimizer=GradientDescent(learning_rate=0.1, max_iterations=2),
                threshold=0.5,
            )
        ),
        "oc-flow": method_case(
            OCFlow(grid=Uniform(3), optimizer=Adam(learning_rate=0.1, max_iterations=2))
        ),
    },
}

CASES = {f"{base}:{name}": case for base, table in TABLES.items() for name, case in table.items()}


@pytest.fixture
def registered_operators() -> dict[str, Case]:
    """The cases of the operators that the image domain registers, by their names."""
    return REGISTERED


@pytest.fixture
def all_cases() -> dict[str, Case]:
    """All cases by name."""
    return CASES


@pytest.fixture
def linear_problem() -> SimpleNamespace:
    """The problem of the method cases: `prior(dtype)`, `cost(dtype)` and `seeds`."""
    return SimpleNamespace(prior=conditional_prior, cost=method_cost, seeds=SEEDS)


FOLLOWING = ("operator:", "cost:", "codec:", "regularizer:", "projection:")
"""What follows its input without being moved; sources, priors and rows say where they are."""


@pytest.fixture(name="staying")
def staying_fixture() -> Callable[[], Any]:
    """A context in which components stay where they are."""
    return staying


@pytest.fixture
def seeds() -> Tensor:
    """Of the four samples."""
    return SEEDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` is every case in turn; the others are selections."""
    selections: dict[str, Callable[[str, Case], bool]] = {
        "case": lambda name, case: True,
        "light_case": lambda name, case: not case.heavy,
        "heavy_case": lambda name, case: case.heavy,
        "gradient_case": lambda name, case: case.gradient is not None,
        "value_case": lambda name, case: name.startswith(("cost:", "regularizer:")),
        # The gradients of the others are those of something else, as their documentation says.
        "exact_case": lambda name, case: (
            case.gradient is not None and case.rounding is not None and "adjoint" not in name
        ),
        "smooth_case": lambda name, case: case.rounding is not None,
        "part_case": lambda name, case: case.part is not None,
        "method_case": lambda name, case: case.method is not None,
        "problem_case": lambda name, case: case.problem is not None,
        # The pretended device knows no forward-mode derivatives, of which that path is made.
        "device_case": lambda name, case: name != "path:schedule",
        "following_case": lambda name, case: name.startswith(FOLLOWING) and not case.heavy,
        "gradient_device_case": lambda name, case: (
            case.gradient is not None and name != "path:schedule"
        ),
    }
    for fixture, chosen in selections.items():
        if fixture in metafunc.fixturenames:
            names = [name for name, case in CASES.items() if chosen(name, case)]
            metafunc.parametrize(fixture, [CASES[name] for name in names], ids=names)


# ------------------------------------------------------------------ what there is


def modules() -> Iterator[ModuleType]:
    """Every module of the core, the costs and the domains."""
    for package in (ctrlgen, ctrlgen.costs, ctrlgen.domains):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


@pytest.fixture(scope="session")
def public_classes() -> set[type]:
    """Every public class that these packages define."""
    return {
        value
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and not name.startswith("_")
        and value.__module__.startswith("ctrlgen")
    }
