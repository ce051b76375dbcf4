"""Laws 1 and 6 on the parts of a problem where samples have several sizes: no part sees padding.

Every part is made for a batch of clouds, clips or molecules padded to the largest, and for one of
them alone, without padding. What comes out for that one is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import (
    ChebyshevCost,
    Cost,
    FunctionCost,
    NegativePSNR,
    PropertyCost,
    Reversed,
    SquaredError,
)
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.domains.molecules.composition import CompositionCost
from ctrlgen.domains.molecules.costs import FragmentCost, SimilarityCost, ValenceCost
from ctrlgen.domains.molecules.scaffold_pins import ScaffoldAtoms, ScaffoldPins
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.methods.projections import Normalize
from ctrlgen.methods.regularizers import Chi, GaussianNLL, Regularizer, TargetNLL
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.operators.base import LinearOperator, Measurement, Spectrum
from ctrlgen.priors.codecs import Codec, Identity, Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.pins import PinnedCodec
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import MaskedGaussian, Source
from ctrlgen.rows.batching import row_sum
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import RK4, Dopri5, Euler, Heun, Midpoint, Solver, Velocity

DOUBLE = torch.float64
SEEDS = torch.tensor([7, 3, 11, 2])
COUNTS = torch.tensor([3, 9, 4, 5])
FEATURES = 8  # three coordinates and five classes
SCAFFOLD = torch.tensor([[-0.7, 0.0, 0.0], [0.7, 0.0, 0.0]])
SITES = torch.stack((SCAFFOLD, SCAFFOLD.sign()), 1)
"""Of two atoms: where more may come, and whereto."""
PINS = ScaffoldPins(
    nn.functional.pad(SCAFFOLD, (0, 5), value=0.1)[None].double(), torch.eye(5)[:2] > 0
)
PLACES = ([0], [1, 0, 2, 3])
"""The row of three alone, and among others in second place."""


def masks(rows: list[int]) -> Tensor:
    counts = COUNTS[rows]
    return torch.arange(int(counts.max())) < counts.unsqueeze(1)


def states(rows: list[int], stream: int = 40) -> Tensor:
    mask = masks(rows)
    draws = normal(SEEDS[rows], (mask.shape[1], FEATURES), stream, dtype=DOUBLE)
    return draws * mask.unsqueeze(2)


def check(outputs: Callable[[list[int]], dict[str, Tensor]]) -> None:
    """What is made of the small row is the same alone and among others."""
    alone, among = (outputs(rows) for rows in PLACES)
    for name, expected in alone.items():
        value = among[name][1]
        if value.ndim:
            rest = value[expected.shape[1] :]
            assert rest.numel() == 0 or float(rest.abs().max()) == 0, name
            value = value[: expected.shape[1]]
        assert torch.allclose(value, expected[0], rtol=1e-11, atol=1e-11), name


# ------------------------------------------------------------------ sources and regularizers

SOURCES: dict[str, Callable[[list[int]], Source]] = {
    "masked": lambda rows: MaskedGaussian(masks(rows), FEATURES),
    "masked-free": lambda rows: MaskedGaussian(masks(rows), FEATURES, coordinates=0),
    "atoms": lambda rows: Atoms(masks(rows).shape[1], FEATURES, COUNTS[rows]),
    "scaffold": lambda rows: ScaffoldAtoms(
        masks(rows).shape[1], FEATURES, SCAFFOLD, SITES, False, COUNTS[rows]
    ),
    "frames": lambda rows: Frames(masks(rows).shape[1], FEATURES, COUNTS[rows]),
}
REGULARIZERS = {"chi": Chi(0.3), "gaussian": GaussianNLL(0.3), "target": TargetNLL(0.3)}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    def outputs(rows: list[int]) -> dict[str, Tensor]:
        source, x = SOURCES[name](rows), states(rows)
        return {
            "sample": source.sample(SEEDS[rows], dtype=DOUBLE),
            "project": source.project(x),
            "freedom": source.degrees_of_freedom(x),
            "entries": source.entries(x),
            "present": source.present(x).double(),
            "radius": source.radius(x),
            "gaussian": source.gaussian_nll(x),
            "chi": source.chi_nll(x),
        }

    check(outputs)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizers(name: str, source: str) -> None:
    def outputs(rows: list[int]) -> dict[str, Tensor]:
        x = states(rows).requires_grad_()
        integral = torch.tensor([0.2, 2.0, 1.0, 4.0], dtype=DOUBLE)[rows]
        value = REGULARIZERS[name](x, SOURCES[source](rows), integral)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return {"value": value.detach(), "gradient": gradient}

    check(outputs)


# ------------------------------------------------------------------ codecs and projections


def latent(rows: list[int]) -> LatentCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SpecCodec(hop=8, size=FEATURES, width=8, depth=1, kernel=3).double()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    network.requires_grad_(False)
    frames = COUNTS[rows]
    length = 8 * (int(frames.max()) - 1)
    return LatentCodec(network, torch.zeros(FEATURES), torch.ones(FEATURES), length, frames)


CODECS: dict[str, Callable[[list[int]], Codec]] = {
    "identity": lambda rows: Identity(),
    "scaled": lambda rows: Scaled(2.0),
    "atoms": lambda rows: AtomCodec(1.4, 0.2),
    "pinned": lambda rows: PinnedCodec(AtomCodec(1.4, 0.2), PINS),
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs(name: str) -> None:
    def outputs(rows: list[int]) -> dict[str, Tensor]:
        codec, x = CODECS[name](rows), states(rows)
        scale = {"scale": codec.log_det(x)} if name == "atoms" else {}
        return {"encode": codec.encode(x), "decode": codec.decode(x), **scale}

    check(outputs)


def test_latents_of_clips() -> None:
    """A clip of three frames is two hops, whatever stands behind it."""
    found = []
    for rows in PLACES:
        codec, z, place = latent(rows), states(rows), rows.index(0)
        wave = normal(SEEDS[rows], (1, 16), 44, dtype=DOUBLE)
        padded = nn.functional.pad(wave, (0, codec.length - 16))
        encoded = codec.encode(padded)[place]
        assert float(encoded[3:].abs().sum()) == 0
        found.append((codec.decode(z)[place, :, :16], encoded[:3]))
    for alone, among in zip(*found, strict=True):
        assert torch.allclose(alone, among, rtol=0, atol=1e-12)


@pytest.mark.parametrize("isotropic", [False, True])
def test_normalised_columns(isotropic: bool) -> None:
    check(lambda rows: {"x": Normalize(masks(rows), isotropic=isotropic)(states(rows))})


# ------------------------------------------------------------------ solvers and starts


def cloud(x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """A velocity in which the points of a cloud see one another, and nothing else."""
    there = mask.unsqueeze(2).to(x)
    middle = (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    return (torch.tanh(x) - 0.4 * middle - t.reshape(-1, 1, 1) * x) * there


class Bound:
    """That velocity for the masks of some rows."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return cloud(x, t, self.mask)

    def take(self, index: Tensor) -> Bound:
        return Bound(self.mask[index])


SOLVERS: dict[str, Solver] = {
    "euler": Euler(4),
    "midpoint": Midpoint(3),
    "midpoint-checkpoint": Midpoint(3, "checkpoint"),
    "midpoint-adjoint": Midpoint(3, "adjoint"),
    "heun": Heun(grid=[0.0, 0.2, 1.0]),
    "rk4": RK4(2),
    "dopri5": Dopri5(1e-2, 1e-2),
    "dopri5-adjoint": Dopri5(1e-2, 1e-2, "adjoint"),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name: str) -> None:
    def outputs(rows: list[int]) -> dict[str, Tensor]:
        velocity, x = Velocity(Bound(masks(rows))), states(rows).requires_grad_()
        end = SOLVERS[name](velocity, x)
        (gradient,) = torch.autograd.grad(end.square().sum(), x)
        back = SOLVERS[name].invert(velocity, end.detach(), 0.2)
        return {"end": end.detach(), "gradient": gradient, "back": back}

    check(outputs)


class Same(LinearOperator):
    """y = x, for states of any shape."""

    def spectrum(self, x: Tensor) -> Spectrum:
        return Spectrum(torch.ones_like(x[:1]), *([lambda v: v] * 4))

    def signal_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape[1:])


STARTS: dict[str, Initializer] = {
    "source": SourceSample(),
    "blend": Blend(0.3, rescale=True),
    "guided": GuidedStart(3),
    "guided-adaptive": GuidedStart(3, solver=Dopri5(1e-2, 1e-2)),
    "refined": Refined(GuidedStart(3), 2),
    "multisecant": MultiSecant(4, 2),
}


@pytest.mark.parametrize("name", STARTS)
def test_starts(name: str) -> None:
    def outputs(rows: list[int]) -> dict[str, Tensor]:
        mask = masks(rows)
        prior = Prior(
            Flow(cloud, CondOT()), MaskedGaussian(mask, FEATURES), conditions={"mask": mask}
        )
        measurement = Measurement(Same().ragged(mask), states(rows, 41), 0.1)
        z = prior.start(SEEDS[rows], dtype=DOUBLE)
        return {"x0": STARTS[name](prior, measurement, SEEDS[rows], z)}

    check(outputs)


# ------------------------------------------------------------------ costs

COSTS: dict[str, Callable[[list[int]], Cost]] = {
    "squared-error": lambda rows: SquaredError(Same().ragged(masks(rows)), states(rows, 41)),
    "psnr": lambda rows: NegativePSNR(Same().ragged(masks(rows)), states(rows, 41)),
    "sum-and-scale": lambda rows: (
        0.5 * SquaredError(Same().ragged(masks(rows)), states(rows, 41))
        + NegativePSNR(Same().ragged(masks(rows)), states(rows, 42))
    ),
    "function": lambda rows: FunctionCost(
        lambda x, y: row_sum((x - y).square()), {"y": states(rows, 41)}
    ),
    "property": lambda rows: PropertyCost(lambda x: x.square().sum(1)[:, :1], 0.3, 0.4),
    "chebyshev": lambda rows: ChebyshevCost(
        [Reversed(states(rows, 41)), PropertyCost(lambda x: x.square().sum(1)[:, :1], 0.3, 0.4)],
        [0.3, 0.7],
        smoothing=0.1,
    ),
    "through-codec": lambda rows: FunctionCost(lambda x: row_sum(x.square())).through(Scaled(2.0)),
    "reversed": lambda rows: Reversed(states(rows, 41)),
    "composition": lambda rows: CompositionCost({"N": (0, 0.2), "C": (1, 2)}, "qm9", "soft"),
    "fragment": lambda rows: FragmentCost(
        normal([1], (3, 3), 42, dtype=DOUBLE)[0], torch.eye(5)[:3] > 0, types="soft"
    ),
    "valence": lambda rows: ValenceCost("qm9", width=0.5, slack=0.0, types="soft"),
    "similarity": lambda rows: SimilarityCost(
        normal([1], (3, 8), 43, dtype=DOUBLE)[0], "qm9", types="soft"
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs(name: str) -> None:
    """The gradient too, on what there is; of padding a plan of the user's own may have any."""

    def outputs(rows: list[int]) -> dict[str, Tensor]:
        x = states(rows).requires_grad_()
        value = COSTS[name](rows)(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return {"value": value.detach(), "gradient": gradient * masks(rows).unsqueeze(2)}

    check(outputs)


# ------------------------------------------------------------------ nothing is left out

EXCLUDED: dict[str, str] = {
    "Gaussian": "states of one shape",
    "Canvas": "states of one shape, that of a tile",
    "AutoencoderCodec": "latents of images, of one shape",
    "PretrainedCodec": "a LatentCodec, with weights of its own",
    "Given": "what the user hands over",
    "Projected": "of audio: its operators are of waveforms of one length",
    "BlackBoxCost": "a function of the user's, without a gradient",
    "UncertaintyCost": "of features of a network, which is ragged by itself",
    "Standing": "values of whole molecules, without a gradient",
    **dict.fromkeys(
        ("ChromaTarget", "Continuation", "Loop", "LoudnessCurve", "MelDistance", "Spectra"),
        "of waveforms, of one length in a batch",
    ),
    "ClassifierCost": "its network is the user's, and says itself what padding is",
    "LevelSet": "its function is the user's, and says itself what padding is",
    "ScaledCost": "in sum-and-scale",
    "SumCost": "in sum-and-scale",
    "ThroughCodec": "in through-codec",
}
"""What is not tried by itself, and why."""

NOT_BY_THEMSELVES = ("FixedStep",)  # a base without an abstract method


@pytest.mark.parametrize(
    "base", [Source, Codec, Solver, Initializer, Regularizer, Cost], ids=lambda base: base.__name__
)
def test_every_part_is_tried_or_excluded_with_a_reason(
    base: type, public_classes: set[type]
) -> None:
    parts: list[Any] = [*REGULARIZERS.values(), *SOLVERS.values(), *STARTS.values(), latent([0])]
    parts += [build([0]) for table in (SOURCES, CODECS, COSTS) for build in table.values()]
    tried = {type(part).__name__ for part in parts} - EXCLUDED.keys()
    concrete = {
        kind.__name__
        for kind in public_classes
        if issubclass(kind, base) and not inspect.isabstract(kind)
    }
    missing = concrete - tried - EXCLUDED.keys() - set(NOT_BY_THEMSELVES)
    assert not missing, f"try {sorted(missing)} here, or exclude them with a reason"


def test_what_is_excluded_exists(public_classes: set[type]) -> None:
    assert EXCLUDED.keys() <= {kind.__name__ for kind in public_classes}
