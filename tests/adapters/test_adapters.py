"""Adapters: foreign networks and operators against their own libraries' numbers or closed forms."""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ctrlgen import adapters
from ctrlgen.adapters import from_callable
from ctrlgen.priors.paths import VP
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.testing.oracles import Mixture, gaussian

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def law(d: int = 4) -> Mixture:
    root = normal([1], (d, d), dtype=torch.float64)[0]
    covariance = 0.2 * root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    return gaussian(normal([2], (d,), dtype=torch.float64)[0], covariance)


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
