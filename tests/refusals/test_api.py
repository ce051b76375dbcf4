"""Bad input from Python: every one is refused in words, before the network is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen import methods
from ctrlgen.costs import ClassifierCost, FunctionCost, Reversed, SquaredError
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import EDM, VP, CondOT, DiscreteVP
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.seeds import as_seeds, normal
from ctrlgen.solvers import Dopri5, Euler, Midpoint
from tests.refusals.clear import table, unclear

Act = Callable[[], Any]
Cases = dict[str, tuple[str, Act]]


class Never(nn.Module):
    """A network that must not be evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
        raise AssertionError("the network was evaluated")


PRIOR = Prior(Flow(Never(), CondOT()), Gaussian((4,)))


def square(x: Tensor) -> Tensor:
    return x.square().sum(1)


def steered(method: Any, prior: Any = PRIOR, cost: Any = square, **options: Any) -> Act:
    return lambda: method()(prior, cost, **{"seeds": [1, 2], **options})


METHODS = {
    "DFlow": methods.DFlow,
    "NDTM": methods.NDTM,
    "DPS": methods.DPS,
    "FlowGrad": methods.FlowGrad,
    "FlowPriors": methods.FlowPriors,
}

# ------------------------------------------------------------------ seeds

SEEDS = [
    3, 0, -1, "12", None, 2.5, [], [-1], [1.5], [True], [2**63], ["a"], [[1]], [None],
    np.arange(2.0), np.array(3), np.zeros((2, 2), int), torch.zeros(2),
    torch.zeros(2, 2, dtype=torch.int64), torch.tensor([-1]), torch.tensor(3),
]  # fmt: skip
DOORS: dict[str, Callable[[Any], Any]] = {
    "as_seeds": as_seeds,
    "normal": lambda seeds: normal(seeds, (2,)),
    "sample": PRIOR.sample,
    "start": PRIOR.start,
    **{name: (lambda seeds, m=m: m()(PRIOR, square, seeds=seeds)) for name, m in METHODS.items()},
}
BAD_SEEDS: Cases = {
    f"{door}-{i}-{str(bad)[:12]}": ("seeds", partial(act, bad))
    for door, act in DOORS.items()
    for i, bad in enumerate(SEEDS)
}

# ------------------------------------------------------------------ what every method takes

BAD_CALLS: Cases = {}
for name, method in METHODS.items():
    # Numbers, not what is printed of the values: addresses differ between processes.
    for i, bad in enumerate(("mnist", 3, None, Gaussian, PRIOR.flow, PRIOR.source)):
        BAD_CALLS[f"{name}-prior-{i}"] = ("prior", steered(method, prior=bad))
    wrong = (None, 3.0, "psnr", SquaredError, lambda x: x.sum(), lambda x: None, lambda x: 1.0)
    for i, bad in enumerate(wrong):
        BAD_CALLS[f"{name}-cost-{i}"] = ("cost", steered(method, cost=bad))
    for i, bad in enumerate((3, "print", [print])):
        BAD_CALLS[f"{name}-observer-{i}"] = ("observer", steered(method, observer=bad))

# ------------------------------------------------------------------ devices, dtypes, names

DEVICES = ["foo", "cuda:99", "", 3.5, "meta", ["cpu"]]
DTYPES = ["float32", 3, torch.int64, None, float]
BAD_PLACES: Cases = {
    **{f"load-device-{d}": ("device", partial(ctrlgen.load, "mnist", device=d)) for d in DEVICES},
    **{f"load-dtype-{d}": ("dtype", partial(ctrlgen.load, "mnist", dtype=d)) for d in DTYPES},
    **{f"start-device-{d}": ("device", partial(PRIOR.start, [1], device=d)) for d in DEVICES},
    **{f"start-dtype-{d}": ("dtype", partial(PRIOR.start, [1], dtype=d)) for d in DTYPES},
    **{f"dflow-dtype-{d}": ("dtype", partial(methods.DFlow, dtype=d)) for d in DTYPES},
    **{
        f"load-{str(n)[:12]!r}": (argument, partial(ctrlgen.load, n))
        for n, argument in (
            (3, "name"), (None, "name"), ([], "name"), ("a\0b", "name"), ("", "prior"),
            ("mnits", "prior"), ("..", "prior"), ("os:system", "prior"), ("/", "prior"),
        )
    },
}  # fmt: skip

# ------------------------------------------------------------------ parts

FLOW = PRIOR.flow
BAD_PARTS: Cases = {
    "prior-swapped": ("flow", lambda: Prior(Gaussian, Flow)),
    "prior-flow-network": ("flow", lambda: Prior(Never(), Gaussian((4,)))),
    "prior-source-class": ("source", lambda: Prior(FLOW, Gaussian)),
    "prior-source-shape": ("source", lambda: Prior(FLOW, (4,))),
    "prior-codec": ("codec", lambda: Prior(FLOW, PRIOR.source, "identity")),
    "prior-codec-class": ("codec", lambda: Prior(FLOW, PRIOR.source, Scaled)),
    "prior-conditions": ("conditions", lambda: Prior(FLOW, PRIOR.source, None, [1])),
    "prior-card": ("card", lambda: Prior(FLOW, PRIOR.source, card="mnist")),
    "prior-grid": ("grid", lambda: Prior(FLOW, PRIOR.source, grid=50)),
    "sample-solver": ("solver", lambda: PRIOR.sample([1], solver=50)),
    "sample-solver-class": ("solver", lambda: PRIOR.sample([1], solver=Midpoint)),
    "bind-text": ("label", lambda: PRIOR.bind(label="three")),
    "bind-none": ("label", lambda: PRIOR.bind(label=None)),
    "bind-scalar": ("label", lambda: PRIOR.bind(label=3)),
    "bind-ragged": ("label", lambda: PRIOR.bind(label=[[1], [1, 2]])),
    "bind-object": ("label", lambda: PRIOR.bind(label=object())),
    "flow-network": ("network", lambda: Flow(3, CondOT())),
    "flow-network-none": ("network", lambda: Flow(None, CondOT())),
    "flow-network-one": ("network", lambda: Flow(lambda x: x, CondOT())),
    "flow-network-nothing": ("network", lambda: Flow(lambda: 0, CondOT())),
    "flow-network-module": ("network", lambda: Flow(nn.Linear(4, 4), CondOT())),
    "flow-path-class": ("path", lambda: Flow(Never(), CondOT)),
    "flow-path-text": ("path", lambda: Flow(Never(), "CondOT")),
    "flow-prediction": ("prediction", lambda: Flow(Never(), CondOT(), "speed")),
    "flow-prediction-none": ("prediction", lambda: Flow(Never(), CondOT(), None)),
    "network-none": (
        "network", lambda: Flow(lambda x, t: None, CondOT()).velocity(torch.zeros(2, 3), 0.5)
    ),
    "network-number": (
        "network", lambda: Flow(lambda x, t: 1.0, CondOT()).velocity(torch.zeros(2, 3), 0.5)
    ),
    "network-shape": (
        "network", lambda: Flow(lambda x, t: x[:1], CondOT()).velocity(torch.zeros(2, 3), 0.5)
    ),
    "times": ("t", lambda: FLOW.velocity(torch.zeros(2, 4), torch.zeros(3))),
    **{
        f"gaussian-{bad}": ("shape", partial(Gaussian, bad))
        for bad in ([], [0], [-1], [1.5], 3, "abc", None, [True], ["4"])
    },
    "masked-list": ("mask", lambda: MaskedGaussian([[True, True]], 4)),
    "masked-float": ("mask", lambda: MaskedGaussian(torch.ones(2, 3), 4)),
    "masked-alone": ("mask", lambda: MaskedGaussian(torch.tensor([[True, False]]), 4)),
    "masked-features": (
        "features, coordinates",
        lambda: MaskedGaussian(torch.ones(2, 3, dtype=torch.bool), 2, 3),
    ),
    "vp-order": ("beta_min, beta_max", lambda: VP(2.0, 1.0)),
    "vp-epsilon": ("epsilon", lambda: VP(epsilon=0.0)),
    "vp-nan": ("beta_min", lambda: VP(math.nan)),
    "vp-text": ("beta_min", lambda: VP("small")),
    "edm-order": ("sigma_min, sigma_max, rho", lambda: EDM(2.0, 1.0)),
    "table-short": ("alphas_cumprod", lambda: DiscreteVP([0.5])),
    "table-order": ("alphas_cumprod", lambda: DiscreteVP([0.1, 0.5])),
    "table-nan": ("alphas_cumprod", lambda: DiscreteVP([math.nan, 0.1])),
    "table-text": ("alphas_cumprod", lambda: DiscreteVP("cosine")),
    "scaled-zero": ("scale", lambda: Scaled(0.0)),
    "scaled-nan": ("scale", lambda: Scaled(math.nan)),
    "scaled-text": ("scale", lambda: Scaled("big")),
    "scaled-shift": ("shift", lambda: Scaled(1.0, math.inf)),
    **{
        f"{kind.__name__}-{bad}": ("steps", partial(kind, bad))
        for kind in (Midpoint, Euler)
        for bad in (0, -1, 2.5, "ten", True)
    },
    "dopri-tolerance": ("rtol, atol", lambda: Dopri5(0.0, 0.0)),
    "midpoint-gradient": ("gradient", lambda: Midpoint(2, "magic")),
    "dflow-solver": ("solver", lambda: methods.DFlow(solver="midpoint")),
    "dflow-optimizer": ("optimizer", lambda: methods.DFlow(optimizer=torch.optim.LBFGS)),
    "dflow-regularizer": ("regularizer", lambda: methods.DFlow(regularizer=0.1)),
    "dflow-initializer": ("initializer", lambda: methods.DFlow(initializer="blend")),
    "dflow-projection": ("projection", lambda: methods.DFlow(projection="sphere")),
    "adam-rate": ("learning_rate", lambda: Adam(learning_rate=-1.0)),
    "lbfgs-iterations": ("max_iterations", lambda: LBFGS(max_iterations=-1)),
    "lbfgs-history": ("history", lambda: LBFGS(history=0)),
    "preset": ("preset", lambda: methods.DFlow.preset("deblurr")),
    "cost-function": ("fn", lambda: FunctionCost(3)),
    "cost-data": ("per_sample", lambda: FunctionCost(square, {"c": [1.0]})),
    "cost-y-nan": ("y", lambda: Reversed(torch.tensor([[math.nan]]))),
    "cost-label": (
        "label", lambda: ClassifierCost(nn.Linear(4, 3), torch.tensor([7, 1]))(torch.zeros(2, 4))
    ),
}  # fmt: skip


@table(BAD_SEEDS)
def test_seeds(argument: str, act: Act) -> None:
    assert unclear(act, argument) == ""


@table(BAD_CALLS)
def test_calls_of_methods(argument: str, act: Act) -> None:
    assert unclear(act, argument) == ""


@table(BAD_PLACES)
def test_devices_dtypes_and_names(argument: str, act: Act) -> None:
    assert unclear(act, argument) == ""


@table(BAD_PARTS)
def test_parts(argument: str, act: Act) -> None:
    assert unclear(act, argument) == ""


def test_there_are_enough() -> None:
    assert sum(map(len, (BAD_SEEDS, BAD_CALLS, BAD_PLACES, BAD_PARTS))) >= 380


def test_good_seeds_of_every_kind() -> None:
    for good in (np.arange(2), range(2), (0, 1), [np.int64(0), 1], torch.arange(2), iter([0, 1])):
        assert as_seeds(good).tolist() == [0, 1]  # type: ignore[arg-type]


def test_equal_seeds_are_said_once() -> None:
    with pytest.warns(UserWarning, match="seeds: 3, 5 more than once") as caught:
        PRIOR.start([3, 5, 3, 5, 1])
    assert len(caught) == 1
