"""Networks in half precision, compiled, on padded batches: the same prior within a tolerance."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import FunctionCost
from ctrlgen.methods import DFlow
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.acceleration import Graphed, Half
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.solvers import Midpoint

D, SEEDS = 6, [5, 3, 8, 13, 21]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler (g++ or clang++), and there is none",
)


class Net(nn.Module):
    """Two layers, smooth, with a label."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D + 1, 16)
        self.label = nn.Embedding(3, 16)
        self.last = nn.Linear(16, D)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        hidden = self.first(torch.cat((x, t[:, None]), 1))
        if label is not None:
            hidden = hidden + self.label(label)
        return self.last(hidden.tanh())


@pytest.fixture
def plain() -> Prior:
    torch.manual_seed(1)
    network = Net().eval().requires_grad_(False)
    return Prior(Flow(network, CondOT()), Gaussian((D,)))


def states(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(range(rows), (D,), 7, dtype=dtype)


def gradient(prior: Prior, x: Tensor, label: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    signal = prior.bind(label=label).generate(point, Midpoint(2))
    return torch.autograd.grad((signal.square().sum(1) * torch.arange(1, len(x) + 1)).sum(), point)[
        0
    ]


def agree(fast: Prior, plain: Prior, tolerance: float, rows: int = 5) -> None:
    """Values, gradients and counts of another form of a prior."""
    x, label = states(rows), torch.arange(rows) % 3
    t = torch.linspace(0.1, 0.9, rows)
    before = plain.flow.evaluations.copy()
    value = fast.bind(label=label).velocity(x, t)
    assert value.dtype == torch.float32
    assert (fast.flow.evaluations.forward, fast.flow.evaluations.forward_rows) == (1, rows)
    assert plain.flow.evaluations == before  # it counts in a place of its own
    expected = plain.bind(label=label).velocity(x, t)
    assert (value - expected).abs().max() <= tolerance * expected.abs().max()
    fast.flow.evaluations.reset()
    pulled, wanted = gradient(fast, x, label), gradient(plain, x, label)
    assert (pulled - wanted).abs().max() <= 4 * tolerance * wanted.abs().max()
    counts = fast.flow.evaluations
    assert (counts.forward, counts.vjp, counts.vjp_rows) == (4, 4, 4 * rows)


def steered(prior: Prior, seeds: list[int]) -> Tensor:
    """Costs after a few iterations of D-Flow."""
    cost = FunctionCost(lambda x: (x - 0.5).square().sum(1))
    result = DFlow(optimizer=LBFGS(max_iterations=5))(prior, cost, seeds=seeds)
    assert result.controls.dtype == torch.float32 and result.costs.dtype == torch.float32
    return result.samples


# ------------------------------------------------------------------ half precision


def test_half_agrees_to_the_precision_of_bfloat16(plain: Prior) -> None:
    fast = plain.half("bfloat16")
    agree(fast, plain, 2**-6)
    x = states(5)
    difference = (fast.velocity(x, 0.5) - plain.velocity(x, 0.5)).abs().max()
    assert difference > 2**-14  # it is bfloat16 indeed
    weights = {p.dtype for p in fast.flow.network.network.first.parameters()}
    assert weights == {torch.bfloat16, torch.float32}  # the bias is added in float32
    assert {p.dtype for p in plain.flow.network.parameters()} == {torch.float32}
    assert fast.flow.network.network is not plain.flow.network


def test_half_keeps_the_time_exact(plain: Prior) -> None:
    """bfloat16 rounds 0.501 to 0.5."""

    class Clock(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return t[:, None].expand_as(x)

    prior = Prior(Flow(Clock(), CondOT()), Gaussian((D,))).half()
    assert torch.equal(prior.velocity(states(2), 0.501), torch.full((2, D), 0.501))


def test_half_is_batch_invariant_to_its_tolerance(plain: Prior) -> None:
    fast = plain.half()
    whole = steered(fast, SEEDS)
    for row, seed in enumerate(SEEDS):
        assert (steered(fast, [seed])[0] - whole[row]).abs().max() < 2**-5


def test_half_differentiates_twice(plain: Prior) -> None:
    def curvature(prior: Prior) -> Tensor:
        x = states(3).requires_grad_()
        value = prior.velocity(x, 0.3).square().sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    expected = curvature(plain)
    assert (curvature(plain.half()) - expected).abs().max() < 2**-4 * expected.abs().max()


def test_half_refuses_what_it_cannot_do(plain: Prior) -> None:
    with pytest.raises(ValueError, match=r"dtype: expected one of .*bfloat16.*got 'int8'"):
        plain.half("int8")
    with pytest.raises(ValueError, match="half comes first"):
        plain.graphed().half()
    with pytest.raises(ValueError, match=r"x: expected float32 states.*float64"):
        Half(plain.flow.network)(states(2, torch.float64), torch.zeros(2))
    function = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((D,)))
    for make in (function.half, function.compiled, function.graphed):
        with pytest.raises(TypeError, match="network: expected a torch module, got function"):
            make()


# ------------------------------------------------------------------ padded batches


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 9])
def test_padded_batches_give_what_plain_ones_do(plain: Prior, rows: int) -> None:
    agree(plain.graphed(sizes=(2, 4)), plain, 1e-6, rows)


def test_few_shapes_reach_the_network(plain: Prior) -> None:
    fast, shapes = plain.graphed(sizes=[4, 1, 4]), set()
    plain.flow.network.register_forward_pre_hook(lambda _, inputs: shapes.add(len(inputs[0])))
    for rows in range(1, 12):
        assert fast.velocity(states(rows), 0.5).shape == (rows, D)
    assert shapes == {1, 4}
    assert len(fast.flow.network.recordings) == 2
    fast.to(torch.float64)
    assert not fast.flow.network.recordings  # the old weights are gone


def test_a_padded_run_is_the_plain_run(plain: Prior) -> None:
    """Rows leave the working set one by one, as they reach the target."""
    assert torch.allclose(
        steered(plain.graphed(sizes=(2, 4)), SEEDS), steered(plain, SEEDS), atol=1e-4
    )


def test_padding_passes_no_nan_to_its_mates(plain: Prior) -> None:
    x = states(3)
    x[2] = torch.nan  # the row that is copied
    fast, label = plain.graphed(sizes=(4,)), torch.tensor([0, 1, 2])
    ours, theirs = gradient(fast, x, label), gradient(plain, x, label)
    assert torch.allclose(ours[:2], theirs[:2], rtol=1e-5, atol=1e-6)
    assert ours[2].isnan().all()


def test_second_derivatives_and_transforms_take_the_plain_network(plain: Prior) -> None:
    def curvature(prior: Prior) -> Tensor:
        x = states(3).requires_grad_()
        value = prior.velocity(prior.velocity(x, 0.1), 0.3).square().sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    def jacobians(prior: Prior) -> tuple[Tensor, Tensor]:
        x = states(2)
        rows = torch.func.jacrev(lambda z: prior.velocity(z, 0.4).sum(0))(x)
        return rows, torch.func.jvp(lambda z: prior.velocity(z, 0.4), (x,), (x,))[1]

    fast = plain.graphed(sizes=(4,))
    assert torch.allclose(curvature(fast), curvature(plain), rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(jacobians(fast), jacobians(plain), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_graphs_refuse_what_makes_no_sense(plain: Prior) -> None:
    for sizes in ((), (0, 4), (2.5,)):
        with pytest.raises(ValueError, match="sizes: expected positive integers"):
            plain.graphed(sizes=sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network: expected frozen weights"):
        Graphed(Net())


# ------------------------------------------------------------------ compiled


@needs_compiler
@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default",
    reason="torch's compiler writes vector instructions whose headers this switch leaves out",
)
def test_compiled_agrees_to_rounding(plain: Prior) -> None:
    """One compilation for all batches of more than one row; the original stays as it was."""
    network, torch_counters = plain.flow.network, torch._dynamo.utils.counters
    fast = plain.compiled()
    assert plain.flow.network is network and fast.flow.network.network is network
    agree(fast, plain, 1e-5)
    first = torch_counters["stats"]["unique_graphs"]
    assert first >= 1  # something was compiled
    for rows in (2, 3, 4):
        x = states(rows)
        expected = plain.velocity(x, 0.5)
        label = torch.zeros(rows, dtype=torch.long)
        assert torch.allclose(fast.velocity(x, 0.5), expected, rtol=1e-5, atol=1e-6)
        ours, theirs = gradient(fast, x, label), gradient(plain, x, label)
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        twice = torch.func.jvp(lambda z: fast.velocity(z, 0.4), (x,), (x,))[1]
        plainly = torch.func.jvp(lambda z: plain.velocity(z, 0.4), (x,), (x,))[1]
    assert torch.allclose(twice, plainly, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ on a card


@pytest.mark.cuda
@pytest.mark.parametrize("make", [Prior.graphed, lambda p: p.half().graphed((1, 4))])
def test_graphs_replay_what_the_network_computes(
    plain: Prior, make: Callable[[Prior], Prior]
) -> None:
    plain = plain.to("cuda")
    fast, tolerance = make(plain), 2**-6 if make is not Prior.graphed else 1e-5
    for rows in (1, 3, 4, 9):
        x, label = states(rows).cuda(), torch.arange(rows, device="cuda") % 3
        ours = fast.bind(label=label).velocity(x, 0.5)
        theirs = plain.bind(label=label).velocity(x, 0.5)
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
        for _ in range(2):  # recordings are replayed, in any order
            point = x.clone().requires_grad_()
            end = fast.bind(label=label).generate(point, Midpoint(3))
            (ours,) = torch.autograd.grad(end.square().sum(), point)
            end = plain.bind(label=label).generate(point, Midpoint(3))
            (theirs,) = torch.autograd.grad(end.square().sum(), point)
            assert (ours - theirs).abs().max() <= 4 * tolerance * theirs.abs().max()
    assert all(recording.graphed for recording in fast.flow.network.recordings.values())
