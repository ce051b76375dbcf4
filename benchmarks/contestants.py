"""The methods that benchmarks/calibration.py compares, each by one knob, its strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctrlgen import methods as m
from ctrlgen.costs import Cost, SquaredError
from ctrlgen.methods.regularizers import GaussianNLL
from ctrlgen.operators import Operator
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform
from ctrlgen.solvers import Midpoint

Build = Callable[[float], m.Method]


def contestants(noise: float) -> dict[str, tuple[Build, str]]:
    """Each method by its strength, and the cost that its paper has: −log p(y|x), or ‖Hx − y‖²."""
    double: dict[str, Any] = {"dtype": torch.float64}
    hundred = {"grid": DDPMUniform(100), **double}
    fine = {"grid": Uniform(100, 0.01), **double}
    control = {"grid": DDPMUniform(50), "iterations": 5, **double}
    adam, short = Adam(learning_rate=0.05), Adam(learning_rate=0.05, max_iterations=60)
    quick, source = Adam(learning_rate=0.3), {"solver": Midpoint(6), **double}
    lbfgs = LBFGS(max_iterations=15)
    daps: dict[str, Any] = {"grid": Karras(30, 0.1, 20.0), "langevin_steps": 30, "noise": None}
    ten = {"grid": Uniform(10), **double}
    likelihood: dict[str, Build] = {
        "ClassifierGuidance": lambda s: m.ClassifierGuidance(scale=s, **hundred),
        "TFG": lambda s: m.TFG(rho=0.02 * s, mu=0.01 * s, **hundred),
        "LGDMC": lambda s: m.LGDMC(rho=0.03 * s, draws=4, **hundred),
        "FreeDoM": lambda s: m.FreeDoM(rho=0.03 * s, **hundred),
        "UGD": lambda s: m.UGD(rho=0.02 * s, mu=0.005 * s, **hundred),
        "NDTM": lambda s: m.NDTM(terminal_weight=s, optimizer=adam, **control),
        "CTDTM": lambda s: m.CTDTM(terminal_weight=s, optimizer=quick, **control),
        "FTM": lambda s: m.FTM(terminal_weight=s, optimizer=adam, **control),
        "DFlow": lambda s: m.DFlow(optimizer=lbfgs, **source),
        "DFlow, prior": lambda s: m.DFlow(optimizer=lbfgs, regularizer=GaussianNLL(s), **source),
        "OptimalControl": lambda s: m.OptimalControl(iterations=3, penalty=1 / s, **ten),
        "FlowGrad": lambda s: m.FlowGrad(optimizer=short, **ten),
        "OCFlow": lambda s: m.OCFlow(optimizer=short, penalty=1 / s, **ten),
    }
    exact = {"mode": "linear", "exact": True, **hundred}
    squared: dict[str, Build] = {
        "DPS": lambda s: m.DPS(rho=0.1 * s, **hundred),
        "MPGD": lambda s: m.MPGD(mu=0.1 * s, **hundred),
        "DDRM": lambda s: m.DDRM(**hundred),
        "PiGDM": lambda s: m.PiGDM(weighting="posterior", weight=s, **fine),
        "AncestralPiGDM": lambda s: m.AncestralPiGDM(weight=s, **hundred),
        "CPiGDM": lambda s: m.CPiGDM(weight=8.0 * s, decay=0.0, **fine),
        "OTODE": lambda s: m.OTODE(weight=s, **fine),
        "CPiGFM": lambda s: m.CPiGFM(weight=20.0 * s, **fine),
        "CTDTM, exact": lambda s: m.CTDTM(terminal_weight=0.5 * s / noise**2, **exact),
        "REDDiff": lambda s: m.REDDiff(weight=0.25 / s, **hundred),
        "PnPFlow": lambda s: m.PnPFlow(grid=Uniform(50), scale=0.1 * s, **double),
        "FlowPriors": lambda s: m.FlowPriors(
            grid=Uniform(50, 1e-3), weight=s, optimizer=adam, **double
        ),
        "DAPS": lambda s: m.DAPS(rate=0.02 * s, **daps, **double),
        "DMPlug": lambda s: m.DMPlug(grid=Uniform(3), optimizer=short, **double),
    }
    return {
        **{name: (build, "likelihood") for name, build in likelihood.items()},
        **{name: (build, "squared") for name, build in squared.items()},
    }


def posed(form: str) -> Callable[[Operator, Tensor, float], Cost]:
    """The cost of measurements in a form."""

    def cost(operator: Operator, y: Tensor, noise: float) -> Cost:
        squared = SquaredError(operator, y, noise)
        return squared if form == "squared" else (0.5 / noise**2) * squared

    return cost
