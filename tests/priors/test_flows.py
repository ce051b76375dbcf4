"""Flows: every conversion, the reading on another clock, and what the counters count."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.func import jacfwd, jacrev, jvp, vjp, vmap

from ctrlgen.priors.flows import Evaluations, Flow, Guided, Kind, Prediction
from ctrlgen.priors.paths import EDM, VP, Coefficients, CondOT, Cosine, DiscreteVP
from ctrlgen.rows.seeds import normal
from ctrlgen.testing.oracles import Mixture

KINDS = get_args(Kind)
COORDINATES = ("data", "noise", "velocity", "score", "v")
DOUBLE = {"rtol": 1e-10, "atol": 1e-10}


def mixture(dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Mixture:
    """Three components in three dimensions, none of them round."""
    root = normal([1, 2, 3], (3, 3), dtype=torch.float64, device=device)
    covariances = 0.1 * root @ root.mT + 0.05 * torch.eye(3, dtype=torch.float64, device=device)
    means = normal([4, 5, 6], (3,), dtype=torch.float64, device=device)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, device=device)
    return Mixture(means, covariances, weights).to(dtype)


def levels(at: Coefficients, x: torch.Tensor) -> Coefficients:
    """Coefficients of per-sample times against x (B, d)."""
    return Coefficients(*(part.unsqueeze(1) for part in at))


def truth(x: torch.Tensor, at: Coefficients) -> dict[str, torch.Tensor]:
    """All five coordinates of the mixture's prediction, by the formulas of Gaussian paths."""
    data = mixture().denoise(x, at.alpha.squeeze(1), at.sigma.squeeze(1))
    noise = (x - at.alpha * data) / at.sigma
    return {
        "data": data,
        "noise": noise,
        "velocity": at.a * x + at.b * data,
        "score": (at.alpha * data - x) / at.sigma**2,
        "v": at.alpha * noise - at.sigma * data,
    }


@pytest.fixture
def x() -> torch.Tensor:
    return normal(range(9), (3,), dtype=torch.float64)


@pytest.fixture
def t() -> torch.Tensor:
    return torch.linspace(0.02, 0.98, 9, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_coordinate_from_every_prediction(kind, path, x, t):
    """T0.1: whatever the network predicts, all five come out right."""
    at = levels(path(t), x)
    expected = truth(x, at)
    flow = Flow(lambda x, t: truth(x, levels(path(t), x))[kind], path, kind)
    for name in COORDINATES:
        # At the ends of a path a conversion divides by α or σ: the error is that of float64
        # over the smallest coefficient, and still far below one percent.
        scale = expected[name].abs().amax()
        torch.testing.assert_close(
            getattr(flow.predict(x, t), name) / scale, expected[name] / scale, rtol=1e-8, atol=1e-8
        )
    torch.testing.assert_close(flow.velocity(x, t), flow.predict(x, t).velocity)
    torch.testing.assert_close(flow.denoise(x, t), flow.predict(x, t).data)
    torch.testing.assert_close(flow.noise(x, t), flow.predict(x, t).noise)
    torch.testing.assert_close(flow.score(x, t), flow.predict(x, t).score)


def test_round_trip_through_all_coordinates(path, x, t):
    """T0.1: u → x̂ → ε̂ → s → v → u, each from the one before it."""
    at = levels(path(t), x)
    start = value = mixture().flow(path).velocity(x, t)
    kind: Kind = "velocity"
    for name in ("data", "noise", "score", "v", "velocity"):
        value, kind = getattr(Prediction(kind, value, x, at), name), name
    torch.testing.assert_close(value, start, rtol=1e-9, atol=1e-9)


def test_straight_lines_by_hand(x):
    """The simple forms of CondOT, at t = 0.3."""
    u = normal(range(20, 29), (3,), dtype=torch.float64)
    seen = Flow(lambda x, t: u, CondOT()).predict(x, 0.3)
    torch.testing.assert_close(seen.data, x + 0.7 * u, **DOUBLE)
    torch.testing.assert_close(seen.noise, x - 0.3 * u, **DOUBLE)
    torch.testing.assert_close(seen.score, (0.3 * u - x) / 0.7, **DOUBLE)
    torch.testing.assert_close(seen.v, 0.3 * (x - 0.3 * u) - 0.7 * (x + 0.7 * u), **DOUBLE)


def test_no_division_where_the_own_quantity_serves(x):
    """At both ends of straight lines the native prediction and the velocity stay finite."""
    for t in (0.0, 1.0):
        flow = Flow(lambda x, t: 2 * x, CondOT(), "velocity")
        assert torch.equal(flow.velocity(x, t), 2 * x)
        assert torch.isfinite(flow.denoise(x, t)).all() and torch.isfinite(flow.noise(x, t)).all()
    assert torch.equal(Flow(lambda x, t: 2 * x, CondOT(), "data").denoise(x, 1.0), 2 * x)
    assert torch.equal(Flow(lambda x, t: 2 * x, CondOT(), "noise").noise(x, 0.0), 2 * x)


def test_score_is_the_gradient_of_the_log_density(path, x, t):
    """T0.2, first half."""
    at = path(t)
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(mixture().log_prob(x, at.alpha, at.sigma).sum(), x)
    score = mixture().flow(path).score(x, t)
    torch.testing.assert_close(score, expected, rtol=1e-8, atol=1e-9)


def test_jacobian_of_the_denoiser_is_the_posterior_variance(path, x, t):
    """T0.2, second half: D x̂ = (α/σ²) Var, D u = a I + γ Var; on levels with |log snr| < 6."""
    t = path.time_at(torch.linspace(-6, 6, 9, dtype=torch.float64)).clamp(0, 1)
    at = path(t)
    variance = mixture().variance(x, at.alpha, at.sigma)
    flow = mixture().flow(path)
    row = torch.arange(9)
    jacobian = jacrev(lambda x: flow.denoise(x, t))(x)[row, :, row]
    torch.testing.assert_close(
        jacobian, (at.alpha / at.sigma**2).reshape(-1, 1, 1) * variance, rtol=1e-8, atol=1e-9
    )
    jacobian = jacrev(lambda x: flow.velocity(x, t))(x)[row, :, row]
    expected = at.a.reshape(-1, 1, 1) * torch.eye(3, dtype=x.dtype)
    expected = expected + at.gamma.reshape(-1, 1, 1) * variance
    torch.testing.assert_close(jacobian, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("other", [CondOT(), Cosine(), VP(), DiscreteVP.linear(), EDM()], ids=repr)
def test_another_clock_reads_the_same_flow(path, other, x):
    """T0.3: a flow native to one path, read on another, is the oracle of the other."""
    low, high = (max(p(torch.tensor(0.0).double()).log_snr for p in (path, other)), 4.0)
    low = max(float(low), -7.0)
    high = min(high, *(float(p(torch.tensor(1.0).double()).log_snr) for p in (path, other)))
    margin = 0.01 * (high - low)
    t = other.time_at(torch.linspace(low + margin, high - margin, 9, dtype=torch.float64))
    read, oracle = mixture().flow(path).on(other), mixture().flow(other)
    assert read.path is other
    for name in COORDINATES:
        expected = getattr(oracle.predict(x, t), name)
        scale = expected.abs().amax()
        torch.testing.assert_close(
            getattr(read.predict(x, t), name) / scale, expected / scale, rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("kind", KINDS)
def test_another_clock_for_every_prediction(kind, x, t):
    native = VP()
    flow = Flow(lambda x, t: truth(x, levels(native(t), x))[kind], native, kind).on(Cosine())
    t = t[2:-1]
    expected = mixture().flow(Cosine()).velocity(x[:6], t)
    torch.testing.assert_close(flow.velocity(x[:6], t), expected, rtol=1e-8, atol=1e-8)


def test_another_clock_is_finite_at_its_ends(path, x):
    """Where the native path ends before the other does, its end answers."""
    flow = mixture().flow(path).on(CondOT())
    for t in (0.0, 1.0):
        seen = flow.predict(x, t)
        assert torch.isfinite(seen.velocity).all() and torch.isfinite(seen.data).all()
    # At the data end the state is its own denoised value, to the noise that the native end keeps.
    rest = path(torch.ones(1, dtype=x.dtype))
    close = 3 * float(rest.sigma / rest.alpha) * (1 + x.abs().max())
    torch.testing.assert_close(flow.denoise(x, 1.0), x, rtol=0, atol=float(close) + 1e-9)


def test_on_and_back(x, t):
    flow = mixture().flow(VP())
    there_and_back = flow.on(CondOT()).on(flow.path)
    torch.testing.assert_close(there_and_back.velocity(x, t), flow.velocity(x, t))
    there_and_back.velocity(x, t)
    assert flow.evaluations.forward == 3, "all readings of one network count in one place"


def test_ddim_step_is_an_euler_step_on_the_noise_to_signal_clock(path, x, t):
    """T0.4: DDIM with η = 0 is Euler of x/α in the variable σ/α with ε̂ frozen."""
    flow = mixture().flow(path)
    now, then = (levels(path(time), x) for time in (t[:-1], t[1:]))
    x = x[:8]
    seen = flow.predict(x, t[:-1])
    ddim = then.alpha * seen.data + then.sigma * seen.noise
    d_state = seen.velocity / now.alpha - x * now.d_alpha / now.alpha**2
    d_ratio = now.d_sigma / now.alpha - now.sigma * now.d_alpha / now.alpha**2
    step = then.sigma / then.alpha - now.sigma / now.alpha
    euler = then.alpha * (x / now.alpha + step * d_state / d_ratio)
    torch.testing.assert_close(ddim, euler, rtol=1e-8, atol=1e-8)


def test_time_is_a_number_or_one_per_sample(path, x, t):
    flow = mixture().flow(path)
    together = flow.velocity(x, t)
    for i in (0, 5):
        one = slice(i, i + 1)
        torch.testing.assert_close(
            flow.velocity(x[one], float(t[i])), together[one], rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            flow.velocity(x[one], t[i]), together[one], rtol=1e-12, atol=1e-12
        )


def test_state_of_any_shape_dtype_and_device(dtype, device):
    def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,) and t.dtype == dtype and t.device == x.device
        return x * label.reshape(-1, *(1,) * (x.ndim - 1))

    for shape in ((2, 4), (2, 3, 5), (2, 1, 4, 4), (2, 2, 2, 2, 2)):
        x = torch.ones(shape, dtype=dtype, device=device)
        label = torch.tensor([2, 3], device=device)
        u = Flow(network, Cosine(), "noise").velocity(x, 0.4, label=label)
        assert (u.shape, u.dtype, u.device) == (x.shape, dtype, x.device)


def counted(flow: Flow) -> dict[str, int]:
    counts = {k: v for k, v in vars(flow.evaluations).items() if v}
    flow.evaluations.reset()
    assert vars(flow.evaluations) == vars(Evaluations())
    return counts


@pytest.mark.parametrize("kind", ["velocity", "noise"])
@pytest.mark.parametrize("native", [CondOT(), VP(), DiscreteVP.linear()], ids=repr)
def test_one_time_for_all_is_that_time_for_each(native, kind, path, x):
    """A number is looked up on the host, times of samples where they are: the same shapes, too."""
    flow = Flow(entangled, native, kind).on(path)
    one, each = (flow.predict(x, t) for t in (0.3, torch.full((9,), 0.3, dtype=x.dtype)))
    for mine, other in zip(one.coefficients, each.coefficients, strict=True):
        torch.testing.assert_close(mine, other, **DOUBLE)
    for name in COORDINATES:
        torch.testing.assert_close(getattr(one, name), getattr(each, name), **DOUBLE)


def test_a_path_that_learns_has_its_gradient_at_a_number(x):
    class Bent(CondOT):
        def __init__(self) -> None:
            self.power = torch.ones((), dtype=torch.float64, requires_grad=True)

        def __call__(self, t: torch.Tensor) -> Coefficients:
            return super().__call__(t**self.power)

    path = Bent()
    for flow in (Flow(entangled, path, "data"), Flow(entangled, VP(), "data").on(path)):
        path.power.grad = None
        flow.velocity(x, 0.3).sum().backward()
        assert path.power.grad is not None and path.power.grad.abs() > 0.01


def entangled(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * x.sum(1, keepdim=True) + t.unsqueeze(1)


@pytest.mark.parametrize("native", [CondOT(), VP()], ids=repr)
def test_counters(native):
    """A forward pass, a vjp and a jvp each count once, with as many rows as went through."""
    flow = Flow(entangled, native, "data").on(CondOT())
    x = torch.ones(3, 4, dtype=torch.float64)
    one = torch.ones_like(x)

    def f(x: torch.Tensor) -> torch.Tensor:
        return flow.velocity(x, 0.3)

    seen = flow.predict(x, 0.3)
    assert all(getattr(seen, name) is not None for name in COORDINATES)
    assert counted(flow) == {"forward": 1, "forward_rows": 3}

    leaf = x.clone().requires_grad_()
    f(leaf)
    assert counted(flow) == {"forward": 1, "forward_rows": 3}
    f(leaf).sum().backward()
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 1, "vjp_rows": 3}
    f(f(leaf)).sum().backward()
    assert counted(flow) == {"forward": 2, "forward_rows": 6, "vjp": 2, "vjp_rows": 6}

    vjp(f, x)[1](one)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 1, "vjp_rows": 3}
    jvp(f, (x,), (one,))
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "jvp": 1, "jvp_rows": 3}
    with torch.autograd.forward_ad.dual_level():
        f(torch.autograd.forward_ad.make_dual(x, one))
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "jvp": 1, "jvp_rows": 3}


def test_counters_under_vmap():
    """One call carries many rows: a Jacobian of 12 outputs is 12 cotangents of 3 rows."""
    flow = Flow(entangled, CondOT())
    x = torch.ones(3, 4, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return flow.velocity(x, 0.3)

    reverse = jacrev(f)(x)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 1, "vjp_rows": 36}
    forward = jacfwd(f)(x)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "jvp": 1, "jvp_rows": 36}
    torch.testing.assert_close(reverse, forward)

    def single(row: torch.Tensor) -> torch.Tensor:
        return f(row.unsqueeze(0)).squeeze(0)

    torch.testing.assert_close(vmap(single)(x), f(x))
    assert counted(flow) == {"forward": 2, "forward_rows": 6}
    blocks = vmap(jacrev(single))(x)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 1, "vjp_rows": 12}
    torch.testing.assert_close(blocks, torch.stack([reverse[i, :, i] for i in range(3)]))
    vmap(jacfwd(single))(x)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "jvp": 1, "jvp_rows": 12}


def test_counters_under_double_backward():
    flow = Flow(entangled, CondOT())
    x = torch.ones(3, 4, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(flow.velocity(x, 0.3).sum(), x, create_graph=True)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 1, "vjp_rows": 3}
    gradient.sum().backward()
    assert counted(flow) == {"vjp": 2, "vjp_rows": 6}

    # The double-vjp trick gives J w: it passes through the linear part alone.
    w = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    cotangent = torch.zeros_like(w).requires_grad_()
    u = flow.velocity(x, 0.3)
    (pulled,) = torch.autograd.grad(u, x, cotangent, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, cotangent, w)
    assert counted(flow) == {"forward": 1, "forward_rows": 3, "vjp": 2, "vjp_rows": 6}
    _, expected = jvp(lambda x: flow.velocity(x, 0.3), (x.detach(),), (w,))
    torch.testing.assert_close(pushed, expected)


def test_counters_do_not_change_the_derivatives():
    x = normal([0], (2, 3), dtype=torch.float64)[0].requires_grad_()
    flow = Flow(entangled, CondOT())
    assert torch.autograd.gradcheck(lambda x: flow.velocity(x, 0.3), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: flow.velocity(x, 0.3), x)


def test_gradients_reach_conditions_times_and_parameters():
    """Law 4: nothing is detached on the way."""
    gain = torch.tensor(2.0, requires_grad=True)
    t = torch.tensor([0.2, 0.6], requires_grad=True)
    guide = torch.ones(2, 3, requires_grad=True)
    flow = Flow(lambda x, t, guide: gain * x + guide, CondOT(), "data").on(Cosine())
    flow.velocity(torch.ones(2, 3), t, guide=guide).sum().backward()
    for leaf in (gain, t, guide):
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0


def test_evaluations_add_subtract_and_copy():
    evaluations = Evaluations(3, 2, 1, 30, 20, 10)
    before = evaluations.copy()
    evaluations.add("vjp", 7)
    assert evaluations - before == Evaluations(vjp=1, vjp_rows=7)
    assert before + (evaluations - before) == evaluations
    assert before == Evaluations(3, 2, 1, 30, 20, 10)


def test_guidance_extrapolates_the_condition():
    def network(
        x: torch.Tensor, t: torch.Tensor, label: torch.Tensor, aside: torch.Tensor
    ) -> torch.Tensor:
        return x * label.unsqueeze(1) + aside.unsqueeze(1) * t.unsqueeze(1)

    x, t = torch.ones(2, 3), torch.tensor([0.5, 0.25])
    label, aside = torch.tensor([3, 5]), torch.tensor([10.0, 20.0])
    for scale in (0.0, 1.0, 2.5):
        u = Flow(Guided(network, scale, {"label": 1}), CondOT()).velocity(
            x, t, label=label, aside=aside
        )
        expected = 1 + scale * (label - 1) + aside * t
        torch.testing.assert_close(u, expected.unsqueeze(1).expand(2, 3))
    flow = Flow(Guided(network, 2.0, {"label": 1}), CondOT())
    flow.velocity(x, t, label=label, aside=aside)
    assert flow.evaluations.forward == 1


def test_moving_a_flow_moves_its_network():
    class Timed(torch.nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    linear = Timed(2, 2)
    for network in (linear, Guided(linear, 2.0, {})):
        flow = Flow(network, CondOT())
        assert flow.to(torch.float64) is flow
        assert linear.weight.dtype == torch.float64
        flow.to(torch.float32)
    flow = mixture(torch.float32).flow()
    assert flow.to(torch.float64).network.mixture.means.dtype == torch.float64


@pytest.mark.parametrize("t", [torch.zeros(3), torch.zeros(2, 1), [0.1, 0.2, 0.3]])
def test_times_of_a_wrong_shape_are_refused(t):
    flow = Flow(lambda x, t: x, CondOT())
    with pytest.raises(ValueError, match=r"t: expected a number or shape \(2,\)"):
        flow.velocity(torch.ones(2, 3), t)
    assert flow.evaluations.forward == 0


@pytest.mark.parametrize("answer", [torch.ones(2), torch.ones(2, 6), torch.ones(1, 3)])
def test_a_network_of_another_shape_is_refused(answer):
    with pytest.raises(ValueError, match=r"network: expected an output of shape \(2, 3\)"):
        Flow(lambda x, t: answer, CondOT()).velocity(torch.ones(2, 3), 0.5)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="network: expected a callable"):
        Flow(torch.ones(3), CondOT())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prediction: expected one of"):
        Flow(lambda x, t: x, CondOT(), "epsilon")  # type: ignore[arg-type]
