"""Adapters: foreign networks and operators against their own libraries' numbers or closed forms."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from operator import attrgetter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ctrlgen import adapters
from ctrlgen.adapters import from_azula, from_callable, from_deepinv, from_diffusers
from ctrlgen.adapters.azula import SchedulePath
from ctrlgen.operators.base import dense
from ctrlgen.priors.flows import Guided
from ctrlgen.priors.paths import VP, CondOT, Cosine, DiscreteVP
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import MissingExtra
from ctrlgen.rows.seeds import normal
from ctrlgen.testing.oracles import Mixture, gaussian

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def law(d: int = 4) -> Mixture:
    root = normal([1], (d, d), dtype=torch.float64)[0]
    covariance = 0.2 * root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    return gaussian(normal([2], (d,), dtype=torch.float64)[0], covariance)


@pytest.fixture
def x() -> Tensor:
    return normal(range(5), (4,), dtype=torch.float64)


@pytest.fixture
def t() -> Tensor:
    return torch.linspace(0.1, 0.9, 5, dtype=torch.float64)


# --- any callable ------------------------------------------------------------------------------


def test_callables_of_every_habit(x, t):
    """The same oracle behind the calls of other libraries gives the same flow."""
    path = VP()
    oracle = law().flow(path)
    expected = oracle.velocity(x, t)
    cases = {
        "x, t": from_callable(oracle.velocity, path),
        "t, x": from_callable(lambda t, x: oracle.velocity(x, t), path, order="tx"),
        "999 t": from_callable(lambda x, s: oracle.velocity(x, s / 999), path, time=999),
        "1 - t": from_callable(lambda x, s: oracle.velocity(x, 1 - s), path, time=lambda t: 1 - t),
        "output": from_callable(
            lambda x, t: SimpleNamespace(sample=oracle.velocity(x, t)),
            path,
            output=attrgetter("sample"),
        ),
        "noise": from_callable(oracle.noise, path, "noise"),
        "score, t first": from_callable(lambda t, x: oracle.score(x, t), path, "score", order="tx"),
    }
    for name, flow in cases.items():
        torch.testing.assert_close(flow.velocity(x, t), expected, msg=name, **EXACT)


def test_callable_of_one_time(x):
    def network(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == ()
        return x * t

    flow = from_callable(network, one_time=True)
    torch.testing.assert_close(flow.velocity(x, 0.25), x * 0.25)
    with pytest.raises(ValueError, match="one time for all samples"):
        flow.velocity(x, torch.linspace(0, 1, 5))


def test_callable_with_conditions_of_other_names(x):
    flow = from_callable(lambda x, t, y: x * y.unsqueeze(1), rename={"label": "y"})
    label = torch.arange(5)
    torch.testing.assert_close(flow.velocity(x, 0.5, label=label), x * label.unsqueeze(1))
    prior = Prior(flow, Gaussian((4,))).bind(label=label)
    torch.testing.assert_close(prior.velocity(x, 0.5), x * label.unsqueeze(1))


def test_callable_module_keeps_its_parameters_and_gradients():
    linear = torch.nn.Linear(4, 4)
    flow = from_callable(lambda t, x: linear(x), order="tx")
    assert list(flow.network.parameters()) == []
    flow = from_callable(lambda x: x)
    flow = from_callable(torch.nn.Bilinear(4, 4, 4), order="xt", time=lambda t: torch.ones(2, 4))
    assert len(list(flow.network.parameters())) == 2
    flow.velocity(torch.ones(2, 4), 0.5).sum().backward()
    assert all(p.grad is not None for p in flow.network.parameters())
    flow.to(torch.float64)
    assert next(flow.network.parameters()).dtype == torch.float64


def test_bad_callables_are_named():
    with pytest.raises(TypeError, match="fn: expected a callable"):
        from_callable(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order: expected 'xt' or 'tx'"):
        from_callable(lambda x, t: x, order="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prediction: expected one of"):
        from_callable(lambda x, t: x, prediction="eps")  # type: ignore[arg-type]


# --- azula -------------------------------------------------------------------------------------


class Exploding:
    """σ from 0.001 to 1000, α = 1: a schedule whose state has no unit variance."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.exp(math.log(1e-3) * (1 - t) + math.log(1e3) * t)


class Preserving:
    """α = 0.001^(t²) and σ² = 1 − α² + 10⁻⁶."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.exp(math.log(1e-3) * t**2)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-6)


class Denoiser:
    """What an azula denoiser offers, for the oracle."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        alpha, sigma = self.schedule(t)
        return SimpleNamespace(mean=law().denoise(x, alpha, sigma))


def azula_cases() -> dict:
    """Stand-ins of azula's protocol, and azula itself where it is installed."""
    cases = {
        "exploding": (Denoiser(Exploding()), False),
        "preserving": (Denoiser(Preserving()), False),
    }
    if importlib.util.find_spec("azula"):
        from azula import noise
        from azula.denoise import GaussianDenoiser
        from azula.linalg.covariance import FullCovariance

        mean, (values, vectors) = law().mean, torch.linalg.eigh(law().covariance)
        for name in ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule"):
            schedule = getattr(noise, name)()
            denoiser = GaussianDenoiser(mean, FullCovariance(vectors, values), schedule)
            cases[f"azula {name}"] = (denoiser, True)
    return cases


AZULA = azula_cases()


@pytest.mark.parametrize(("denoiser", "one_time"), list(AZULA.values()), ids=list(AZULA))
@pytest.mark.parametrize("path", [CondOT(), Cosine(), VP()], ids=repr)
def test_azula_denoiser_is_the_oracle(denoiser, one_time, path, x):
    flow = from_azula(denoiser, path, one_time=one_time)
    for t in (0.2, 0.5, 0.9):
        seen, oracle = flow.predict(x, t), law().flow(path).predict(x, t)
        for name in ("data", "noise", "velocity", "score"):
            torch.testing.assert_close(getattr(seen, name), getattr(oracle, name), **EXACT)


def test_azula_denoiser_with_times_per_sample(x, t):
    flow = from_azula(Denoiser(Preserving()))
    torch.testing.assert_close(flow.velocity(x, t), law().flow().velocity(x, t), **EXACT)


@pytest.mark.parametrize("schedule", [Exploding(), Preserving()], ids=["exploding", "preserving"])
def test_schedule_paths_obey_the_laws_of_paths(schedule):
    t = torch.linspace(0.02, 0.98, 21, dtype=torch.float64).requires_grad_()
    path = SchedulePath(schedule)
    at = path(t)
    for value, derivative in ((at.alpha, at.d_alpha), (at.sigma, at.d_sigma)):
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        else:
            expected = torch.zeros_like(t)
        torch.testing.assert_close(derivative, expected, rtol=1e-11, atol=1e-12)
    level = at.log_snr.detach().requires_grad_()
    found = path.time_at(level)
    torch.testing.assert_close(found, t, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), level)
    (rate,) = torch.autograd.grad(path(t).log_snr.sum(), t)
    torch.testing.assert_close(slope, 1 / rate, rtol=1e-8, atol=0)
    ends = path.time_at(torch.tensor([-math.inf, math.inf], dtype=torch.float64)).clamp(0, 1)
    assert ends.tolist() == [0, 1]
    assert path.time_at(level.float()).dtype == torch.float32


def test_azula_without_a_schedule_is_refused():
    with pytest.raises(TypeError, match="denoiser: expected a callable with a schedule"):
        from_azula(lambda x, t: x)


# --- diffusers ---------------------------------------------------------------------------------

CONFIG = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


@pytest.fixture(scope="module")
def unet_folder(tmp_path_factory):
    """A tiny random network of 3 classes, saved as a pipeline folder without a scheduler."""
    import diffusers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    unet = diffusers.UNet2DModel(**CONFIG, num_class_embeds=3)
    for p in unet.parameters():  # the last layers start near zero, and hide their input
        torch.nn.init.normal_(p, std=0.1)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def scheduler_config(name: str, **options) -> dict:
    import diffusers

    return dict(getattr(diffusers, name)(**options).config, _class_name=name)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_diffusers_step_is_diffusers_own(unet_folder, schedule, prediction):
    """One DDIM step from index 600 to 400, taken here and by diffusers' scheduler."""
    import diffusers

    config = scheduler_config(
        "DDIMScheduler", beta_schedule=schedule, prediction_type=prediction, clip_sample=False
    )
    prior = from_diffusers(unet_folder, scheduler=config).to(torch.float64)
    assert isinstance(prior.flow.path, DiscreteVP)
    x = normal([1, 2], (2, 8, 8), dtype=torch.float64)
    label = torch.tensor([0, 2])

    theirs = diffusers.DDIMScheduler.from_config(config)
    theirs.alphas_cumprod = torch.cumprod(1 - theirs.betas.double(), 0)
    theirs.set_timesteps(5)
    unet = diffusers.UNet2DModel.from_pretrained(unet_folder, subfolder="unet").double()
    with torch.no_grad():
        output = unet(x, torch.tensor(600), class_labels=label).sample
    expected = theirs.step(output, 600, x).prev_sample

    now, then = (1 - torch.tensor(i / 999, dtype=torch.float64) for i in (600, 400))
    seen = prior.flow.predict(x, now, label=label)
    at = prior.flow.path(then)
    torch.testing.assert_close(at.alpha * seen.data + at.sigma * seen.noise, expected, **EXACT)


def test_diffusers_table_by_hand(unet_folder):
    """ᾱ from the schedules' definitions, not from diffusers."""
    betas = {
        "linear": torch.linspace(1e-3, 0.03, 100, dtype=torch.float64),
        "scaled_linear": torch.linspace(1e-3**0.5, 0.03**0.5, 100, dtype=torch.float64) ** 2,
    }
    for schedule, beta in betas.items():
        config = {
            "_class_name": "DDPMScheduler",
            "beta_schedule": schedule,
            "beta_start": 1e-3,
            "beta_end": 0.03,
            "num_train_timesteps": 100,
        }
        path = from_diffusers(unet_folder, scheduler=config).flow.path
        expected = torch.cumprod(1 - beta, 0)
        torch.testing.assert_close(path.alphas_cumprod, expected, rtol=1e-6, atol=0)
    config = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
    path = from_diffusers(unet_folder, scheduler=config).flow.path
    bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert float(path.alphas_cumprod[499]) == pytest.approx(bar(0.5) / bar(0), rel=1e-4)


def test_diffusers_flow_matching(unet_folder):
    """One Euler step of diffusers' flow-matching scheduler, shift and all."""
    import diffusers

    config = scheduler_config("FlowMatchEulerDiscreteScheduler", shift=3.0)
    prior = from_diffusers(unet_folder, scheduler=config)
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    theirs.set_timesteps(4)
    timestep, sigmas = theirs.timesteps[1], theirs.sigmas
    unet = diffusers.UNet2DModel.from_pretrained(unet_folder, subfolder="unet")
    x, label = normal([1, 2], (2, 8, 8)), torch.tensor([0, 2])
    with torch.no_grad():
        output = unet(x, timestep, class_labels=label).sample
    expected = theirs.step(output, timestep, x).prev_sample
    u = prior.flow.velocity(x, float(1 - sigmas[1]), label=label)
    found = x + float(sigmas[1] - sigmas[2]) * u
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_diffusers_prior(unet_folder):
    """From a folder with its scheduler: shape, labels, guidance, gradients, frozen weights."""
    import diffusers

    diffusers.DDPMScheduler(prediction_type="epsilon").save_pretrained(unet_folder / "scheduler")
    prior = from_diffusers(str(unet_folder))
    assert prior.source.shape == (2, 8, 8) and prior.flow.kind == "noise"
    assert not any(p.requires_grad for p in prior.flow.network.parameters())
    bound = prior.bind(label=[0, 2])
    x = prior.start([1, 2]).requires_grad_()
    u = bound.velocity(x, 0.5)
    u.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    assert (u[0] - prior.bind(label=[1, 2]).velocity(x, 0.5)[0]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="label: expected integers from 0 to 2"):
        prior.bind(label=[0, 3])
    guided = Guided(prior.flow.network, 1.0, {"label": 0})
    both = guided(x, torch.full((2,), 0.5), label=torch.tensor([0, 2]))
    alone = prior.flow.network(x, torch.full((2,), 0.5), label=torch.tensor([0, 2]))
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_diffusers_index_fractional_or_rounded(unet_folder):
    config = scheduler_config("DDPMScheduler")
    given = []
    for rounded in (False, True):
        network = from_diffusers(unet_folder, scheduler=config, rounded=rounded).flow.network
        network.fn.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))
        network(
            torch.zeros(2, 2, 8, 8),
            1 - torch.tensor([500.3, 200.6]) / 999,
            label=torch.zeros(2).long(),
        )
    torch.testing.assert_close(given[0], torch.tensor([500.3, 200.6]), rtol=0, atol=1e-3)
    assert given[1].tolist() == [500, 201] and given[1].dtype == torch.int64


def test_diffusers_refusals(unet_folder, tmp_path):
    import diffusers

    with pytest.raises(ValueError, match="scheduler: expected one of the DDPM family"):
        from_diffusers(unet_folder, scheduler=scheduler_config("EDMEulerScheduler"))
    with pytest.raises(ValueError, match="scheduler: expected one of the DDPM family"):
        from_diffusers(unet_folder, scheduler={"_class_name": "Unheard"})
    config = {**scheduler_config("DDPMScheduler"), "prediction_type": "odds"}
    with pytest.raises(ValueError, match="prediction_type: expected one of epsilon"):
        from_diffusers(unet_folder, scheduler=config)
    with pytest.raises(OSError):
        from_diffusers(tmp_path, scheduler=scheduler_config("DDPMScheduler"))
    learned = {**CONFIG, "time_embedding_type": "learned", "num_train_timesteps": 1000}
    diffusers.UNet2DModel(**{**learned, "sample_size": None}).save_pretrained(tmp_path)
    config = scheduler_config("DDPMScheduler")
    with pytest.raises(ValueError, match="rounded=True"):
        from_diffusers(tmp_path, scheduler=config)
    with pytest.raises(ValueError, match="size: the model's config has no sample_size"):
        from_diffusers(tmp_path, scheduler=config, rounded=True)
    prior = from_diffusers(tmp_path, scheduler=config, rounded=True, size=(8, 16))
    assert prior.sample([0], solver=lambda f, x: f(x, torch.tensor(0.5))).shape == (1, 2, 8, 16)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r'pip install "ctrlgen\[hub\]"'):
        from_diffusers(tmp_path)


# --- deepinv -----------------------------------------------------------------------------------


class Physics:
    """What a deepinv physics offers: A on images (B, 1, 2, 3) in [0, 1], and noise not wanted."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def A(self, u: Tensor) -> Tensor:
        return u.flatten(1) @ self.matrix.to(u).T

    def __call__(self, u: Tensor) -> Tensor:
        return self.A(u) + torch.randn(())


class LinearPhysics(Physics):
    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, 1, 2, 3)

    def A_adjoint_A(self, u: Tensor) -> Tensor:
        return self.A_adjoint(self.A(u))

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ torch.linalg.pinv(self.matrix.to(y)).T).reshape(-1, 1, 2, 3)


class Squared(Physics):
    """Not linear, though like deepinv's phase retrieval it has the adjoint of its linear part."""

    def A(self, u: Tensor) -> Tensor:
        return super().A(u) ** 2

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, 1, 2, 3)

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y.sqrt() @ torch.linalg.pinv(self.matrix.to(y)).T).reshape(-1, 1, 2, 3)


def matrices() -> dict[str, Tensor]:
    full = normal([17], (4, 6), dtype=torch.float64)[0]
    return {"full rank": full, "low rank": full[:, :2] @ full[:2], "tall": full.T @ full[:, :6]}


@pytest.fixture(params=list(matrices().values()), ids=list(matrices()))
def matrix(request) -> Tensor:
    return request.param


@pytest.fixture
def image() -> Tensor:
    return normal(range(5), (1, 2, 3), dtype=torch.float64)


def linear_physics() -> dict:
    """Stand-ins of deepinv's protocol, and deepinv itself where it can be imported."""
    cases = {name: (LinearPhysics(matrix), (1, 2, 3)) for name, matrix in matrices().items()}
    try:
        from deepinv import physics
    except (ImportError, RuntimeError):  # it needs torchvision, which a CPU torch may not bear
        return cases
    cases["deepinv Denoising"] = (physics.Denoising(), (1, 2, 3))
    cases["deepinv Inpainting"] = (physics.Inpainting((1, 4, 4), mask=0.5), (1, 4, 4))
    shrink = physics.Downsampling(img_size=(1, 8, 8), factor=2, filter=None)
    cases["deepinv Downsampling"] = (shrink, (1, 8, 8))
    return cases


LINEAR = linear_physics()


@pytest.mark.parametrize(("physics", "shape"), list(LINEAR.values()), ids=list(LINEAR))
def test_deepinv_linear_identities(physics, shape):
    """T6.1 for what the physics gives."""
    operator = from_deepinv(physics)
    assert operator.linear
    x, other = (normal(range(k, k + 5), shape, dtype=torch.float64) for k in (0, 5))
    y = operator(other)
    matrix = dense(operator, shape)
    torch.testing.assert_close(y.flatten(1), other.flatten(1) @ matrix.T, **EXACT)
    left = (operator(x) * y).flatten(1).sum(1)
    torch.testing.assert_close(left, (x * operator.adjoint(y)).flatten(1).sum(1), **EXACT)
    # deepinv's own inverses may be iterative.
    close = EXACT if isinstance(physics, LinearPhysics) else {"rtol": 1e-6, "atol": 1e-6}
    p = operator.project(x)
    torch.testing.assert_close(operator(p), operator(x), **close)
    torch.testing.assert_close(operator.project(p), p, **close)
    torch.testing.assert_close(operator.pinv(operator(operator.pinv(y))), operator.pinv(y), **close)
    assert operator.signal_shape(y) == shape
    z = operator.solve(y, 0.7, 0.3)
    found = 0.7 * operator.adjoint(operator(z)) + 0.09 * z
    torch.testing.assert_close(found, operator.adjoint(y), rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"DeepinvLinear\(\w+\) has no spectral"):
        operator.spectrum(x)


@pytest.mark.parametrize("noise", [0.0, 0.3, torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0]).double()])
def test_deepinv_solve(matrix, noise):
    """H^T (r² HH^T + σ²I)^{-1} e by its definition; at σ = 0 the limit."""
    operator = from_deepinv(LinearPhysics(matrix), tolerance=1e-13)
    e = normal(range(5, 10), (len(matrix),), dtype=torch.float64)
    r2 = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    found = operator.solve(e, r2, noise).flatten(1)
    sigma = torch.as_tensor(noise, dtype=torch.float64).expand(5)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    for i in range(5):
        gram = r2[i] * matrix @ matrix.T + sigma[i] ** 2 * eye
        inverse = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
        torch.testing.assert_close(found[i], matrix.T @ inverse @ e[i], rtol=1e-8, atol=1e-8)
        alone = operator.solve(e[i : i + 1], r2[i : i + 1], sigma[i : i + 1]).flatten(1)
        torch.testing.assert_close(alone[0], found[i], rtol=1e-12, atol=1e-12)


def test_deepinv_solve_marks_the_sample_that_fails(matrix):
    """A residual of zero is solved at once; its neighbour is not, and says so by NaN."""
    operator = from_deepinv(LinearPhysics(matrix), tolerance=1e-12, iterations=1)
    residual = normal([0, 1], (len(matrix),), dtype=torch.float64)
    residual[1] = 0
    with pytest.warns(RuntimeWarning, match=r"solve: 1 samples above the tolerance"):
        found = operator.solve(residual, 1.0, 0.01)
    assert found[0].isnan().all() and (found[1] == 0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-2.0, 6.0)])
def test_deepinv_ranges(matrix, image, low, high):
    """deepinv's measurement of u in [0, 1] is ours of x = low + (high − low) u."""
    u = image.sigmoid()
    x = low + (high - low) * u
    physics = LinearPhysics(matrix)
    operator = from_deepinv(physics, (low, high))
    torch.testing.assert_close(operator.convert(physics.A(u), x), operator(x), **EXACT)
    shift = operator.convert(physics.A(u) + 0.01, x) - operator(x)
    torch.testing.assert_close(shift, torch.full_like(shift, 0.01 * (high - low)), **EXACT)
    squared = from_deepinv(Squared(matrix.abs()), (low, high))
    assert not squared.linear
    torch.testing.assert_close(squared(x), (u.flatten(1) @ matrix.abs().T) ** 2, **EXACT)
    gain = torch.eye(6, dtype=torch.float64) + 0.1
    invertible = from_deepinv(Squared(gain), (low, high))
    torch.testing.assert_close(invertible.pinv(invertible(x)), x, **EXACT)


def test_deepinv_gradients_and_dtypes(matrix, image, dtype):
    operator = from_deepinv(LinearPhysics(matrix))
    assert torch.autograd.gradcheck(operator, image.clone().requires_grad_())
    x = image.to(dtype)
    y = operator(x)
    for value in (y, operator.adjoint(y), operator.pinv(y), operator.solve(y, 1.0, 0.5)):
        assert value.dtype == dtype


def test_deepinv_refusals(matrix):
    with pytest.raises(TypeError, match="physics: expected a deepinv physics"):
        from_deepinv(torch.nn.Identity())
    with pytest.raises(ValueError, match="signal_range: expected low < high"):
        from_deepinv(LinearPhysics(matrix), (1.0, -1.0))
    per_sample = LinearPhysics(matrix)
    per_sample.named_buffers = lambda: [("mask", torch.ones(5, 1, 2, 3))]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"got mask of shape \(5, 1, 2, 3\)"):
        from_deepinv(per_sample)


# --- the package -------------------------------------------------------------------------------


def test_adapters_are_imported_lazily():
    code = (
        "import sys, ctrlgen.adapters as a\n"
        "heavy = {'diffusers', 'azula', 'deepinv', 'ctrlgen.adapters.diffusers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert dir(a) == a.__all__\n"
        "a.from_callable, a.from_azula, a.from_deepinv, a.from_diffusers\n"
        "assert not {'diffusers', 'azula', 'deepinv'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'from_keras'"):
        adapters.from_keras  # noqa: B018
