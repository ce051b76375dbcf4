"""Cases of priors and their parts: sources, codecs, and where a method starts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ctrlgen.adapters.latent import AutoencoderCodec
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.starts import Projected
from ctrlgen.domains.audio.states import Frames, LatentCodec, PretrainedCodec
from ctrlgen.domains.images.tiles import Canvas
from ctrlgen.domains.molecules.lead_optimization import Given
from ctrlgen.domains.molecules.scaffold_pins import ScaffoldAtoms, ScaffoldPins
from ctrlgen.domains.molecules.states import AtomCodec, Atoms
from ctrlgen.methods.multisecant import MultiSecant
from ctrlgen.methods.starts import Blend, GuidedStart, Initializer, Refined, SourceSample
from ctrlgen.operators.base import Measurement
from ctrlgen.priors.codecs import Codec, Identity, Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import Cosine
from ctrlgen.priors.pins import Entries, PinnedCodec, Pins, pinned
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian, Source
from ctrlgen.solvers import Dopri5, Midpoint
from tests.laws.cases.base import MASK, RATES, SEEDS, Case, D, Outputs, Vector, draw, pick
from tests.laws.cases.costs import measured


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


def pinned_prior(dtype: torch.dtype = torch.float64) -> Prior:
    """Of other entries in every row."""
    return pinned(conditional_prior(dtype), entries(dtype))


def entries(dtype: torch.dtype = torch.float64) -> Entries:
    return Entries(draw(D, stream=49) > 0, draw(D, stream=50, dtype=dtype))


CONDITIONAL, PINNED = conditional_prior(), pinned_prior()


def prior_rows(
    index: Tensor,
    dtype: torch.dtype,
    build: Callable[[torch.dtype], Prior] = conditional_prior,
) -> Outputs:
    prior = pick(build(dtype), index)
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


def small_audio_codec() -> LatentCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SpecCodec(hop=8, size=4, width=8, depth=1, kernel=3)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    network.requires_grad_(False)
    mean, std = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
    return LatentCodec(network, mean, std, 32, torch.tensor([5, 3, 4, 5]))


def pretrained_audio_codec() -> LatentCodec:
    codec = PretrainedCodec("mdct-16k")
    codec.length = 3 * codec.network.hop
    codec.frames = torch.tensor([4, 2, 3, 4])
    return codec


def latent_audio_case(build: Callable[[], LatentCodec]) -> Case:
    def of(dtype: torch.dtype) -> LatentCodec:
        codec = build()
        codec.network = codec.network.to(dtype)
        return codec

    codecs = {dtype: of(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)}
    codec = codecs[torch.float64]
    assert codec.length is not None and codec.frames is not None
    length, states = codec.length, (int(codec.frames.max()), codec.network.size)

    def there(x: Tensor) -> LatentCodec:
        part = copy.copy(codecs[x.dtype])
        part.network = copy.deepcopy(part.network).to(x.device)  # its owner moves a network
        return part

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        x = pick(draw(1, length), index, dtype)
        part = pick(there(x), index)
        z = part.encode(x)
        return {"encode": z, "decode": part.decode(z)}

    def decode(z: Tensor) -> Tensor:
        return there(z).decode(z)

    return Case(type(codec), rows, (decode, draw(*states)), part=lambda: of(torch.float64))


def given_case() -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        prior, seeds = pick(conditional_prior(dtype), index), pick(SEEDS, index)
        z = prior.start(seeds, dtype=dtype, device=index.device)
        return {"x0": Given(pick(draw(D, stream=45), index))(prior, None, seeds, z)}

    return Case(Given, rows)


def pinned_codec_case() -> Case:
    codec = PinnedCodec(Scaled(2.0, -0.3), entries())

    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        part, x = pick(codec, index), pick(draw(D), index, dtype)
        return {"encode": part.encode(x), "decode": part.decode(x)}

    return Case(PinnedCodec, rows, (codec.decode, draw(D)), part=lambda: codec)


def pins_case(build: Callable[[], Pins], *shape: int) -> Case:
    def rows(index: Tensor, dtype: torch.dtype) -> Outputs:
        pins, x = pick(build(), index), pick(draw(*shape), index, dtype)
        return {"project": pins.project(x), "put": pins.put(x, 0.3, 0.7)}

    return Case(type(build()), rows, (build().put, draw(*shape)), part=build)


def scaffold_pins() -> ScaffoldPins:
    value = draw(2, 7, stream=51)[:1]
    return ScaffoldPins(value, torch.tensor([[True, True, False, False], [False] * 3 + [True]]))


INITIALIZERS: dict[str, Case] = {
    "source": initializer_case(SourceSample()),
    "given": given_case(),
    "blend": initializer_case(Blend(0.3, rescale=True)),
    "guided": initializer_case(GuidedStart(3)),
    "projected": initializer_case(Projected(3)),
    "refined": initializer_case(Refined(GuidedStart(3), 2)),
    "multisecant": initializer_case(MultiSecant(4, 2)),
    "guided-adaptive": initializer_case(GuidedStart(3, solver=Dopri5(1e-5, 1e-5))),
}


SOURCES: dict[str, Case] = {
    "gaussian": source_case(Gaussian((D,))),
    "gaussian-image": source_case(Gaussian((3, 2, 4))),
    "masked": source_case(MaskedGaussian(MASK, 5)),
    "masked-free": source_case(MaskedGaussian(MASK, 5, coordinates=0)),
    "atoms": source_case(Atoms(4, 7, counts=MASK.sum(1))),
    "atoms-full": source_case(Atoms(3, 5)),
    "scaffold": source_case(
        ScaffoldAtoms(
            4, 7, draw(2, 3, stream=52)[0], draw(2, 2, 3, stream=53)[0], False, MASK.sum(1) + 1
        )
    ),
    "canvas": source_case(
        Canvas((3, 4, 5), (9, 8), torch.tensor([[0, 0], [5, 3], [2, 1], [0, 3]]))
    ),
    "frames": source_case(Frames(4, 5, MASK.sum(1))),
    "frames-full": source_case(Frames(3, 5)),
}


CODECS: dict[str, Case] = {
    "identity": codec_case(Identity(), (4, 5)),
    "scaled": codec_case(Scaled(2.0, -0.3), (D,)),
    "scaled-channels": codec_case(Scaled([2.0, 0.5, 3.0], [0.0, 1.0, -1.0]), (3, 4, 2)),
    "autoencoder": autoencoder_case(),
    "atoms": codec_case(AtomCodec(1.4, 0.2), (4, 7)),
    "pinned": pinned_codec_case(),
    "latent-audio": latent_audio_case(small_audio_codec),
    "pretrained-audio": latent_audio_case(pretrained_audio_codec),
}


PRIORS: dict[str, Case] = {
    "conditional": Case(
        Prior,
        prior_rows,
        (lambda x: CONDITIONAL.generate(x, Midpoint(3)), draw(D)),
        heavy=True,
        part=conditional_prior,
    ),
    "pinned": Case(
        Prior,
        lambda index, dtype: prior_rows(index, dtype, pinned_prior),
        (lambda x: PINNED.generate(x, Midpoint(3)), draw(D)),
        heavy=True,
        part=pinned_prior,
    ),
}

PINS: dict[str, Case] = {
    "entries": pins_case(entries, D),
    "scaffold": pins_case(scaffold_pins, 4, 7),
}
