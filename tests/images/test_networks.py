"""The velocity networks: signature, preconditioning, derivatives, independence of the batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.images.networks import build

CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"network": "unet", "widths": [8, 12], "attention": 1, "heads": 2},
    "unet-plain": {"network": "unet", "widths": [8, 8, 12]},
    "transformer": {"network": "transformer", "width": 16, "depth": 2, "heads": 2, "skips": True},
    "transformer-plain": {
        "network": "transformer",
        "width": 16,
        "depth": 1,
        "heads": 2,
        "refine": 0,
    },
}


def network(name: str, shape: tuple[int, ...] = (2, 12, 8)) -> torch.nn.Module:
    """A float64 network with random weights everywhere (training starts from zeros)."""
    config = json.loads(json.dumps({**CONFIGS[name], "shape": shape, "classes": 3, "mean": -0.3}))
    net = build(**config).double()
    draw = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return net


def inputs(batch: int = 3, shape: tuple[int, ...] = (2, 12, 8)) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(batch, *shape, generator=draw, dtype=torch.float64)
    return x, torch.rand(batch, generator=draw, dtype=torch.float64), torch.arange(batch) % 4


@pytest.mark.parametrize("name", CONFIGS)
def test_signature(name: str) -> None:
    net, (x, t, label) = network(name), inputs()
    assert net(x, t).shape == x.shape
    assert torch.equal(net(x, t), net(x, t, label=torch.full((3,), 3)))
    assert not torch.allclose(net(x, t), net(x, t, label=label))
    assert not torch.allclose(net(x, t), net(x, t.flip(0)))
    assert net.float()(x.float(), t.float()).dtype == torch.float32
    for bad in ((x[:, :1], t, label), (x, t[:2], label), (x, t, label[:2]), (x[0], t, label)):
        with pytest.raises(ValueError, match="expected shape"):
            net(*bad)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_are_independent(name: str) -> None:
    net, (x, t, label) = network(name), inputs(5)
    whole = net(x, t, label)
    order = torch.tensor([3, 0, 4])
    torch.testing.assert_close(
        net(x[order], t[order], label[order]), whole[order], rtol=1e-10, atol=1e-12
    )
    poisoned = x.clone()
    poisoned[1] = torch.nan
    torch.testing.assert_close(net(poisoned, t, label)[order], whole[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_mode_agrees_with_differences(name: str) -> None:
    net, (x, t, label) = network(name), inputs()
    v, dt = torch.randn_like(x), torch.ones_like(t)
    _, tangent = torch.func.jvp(lambda a, b: net(a, b, label), (x, t), (v, dt))
    h = 1e-6
    numeric = (net(x + h * v, t + h * dt, label) - net(x - h * v, t - h * dt, label)) / (2 * h)
    torch.testing.assert_close(tangent, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CONFIGS)
def test_reverse_and_double_backward(name: str) -> None:
    net, (x, t, label) = network(name), inputs(1)
    x.requires_grad_()
    w, v = torch.randn_like(x), torch.randn_like(x)
    (first,) = torch.autograd.grad((net(x, t, label) * w).sum(), x, create_graph=True)
    _, tangent = torch.func.jvp(lambda a: net(a, t, label), (x.detach(),), (v,))
    torch.testing.assert_close((first * v).sum(), (tangent * w).sum())

    (second,) = torch.autograd.grad((first * v).sum(), x)
    h = 1e-5

    def gradient(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad((net(at, t, label) * w).sum(), at)[0]

    numeric = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    torch.testing.assert_close(second, numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_untrained_network_is_the_best_linear_velocity(name: str) -> None:
    """A zero head leaves E[x_1 - x_0 | x_t] of Gaussian data N(mean, std^2)."""
    mean, std = 0.3, 0.7
    net = build(**CONFIGS[name], shape=(1, 8, 8), classes=2, mean=mean, std=std).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)
    time = t.view(4, 1, 1, 1)
    precision = 1 / (time**2 * std**2 + (1 - time) ** 2)
    data = mean + time * std**2 * precision * (x - time * mean)
    noise = (1 - time) * precision * (x - time * mean)
    torch.testing.assert_close(net(x, t), data - noise)


def test_odd_sides_and_bad_configurations() -> None:
    net = build(network="unet", shape=(1, 28, 28), classes=10, widths=[8, 8, 8])
    assert net(torch.randn(2, 1, 28, 28), torch.rand(2)).shape == (2, 1, 28, 28)
    with pytest.raises(ValueError, match="network"):
        build(network="resnet", shape=(1, 8, 8), classes=2)
    with pytest.raises(ValueError, match="patch"):
        build(network="transformer", shape=(1, 9, 8), classes=2)
