"""Tasks and settings of `conjugate.images`: what is measured, what each method may choose among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from ctrlgen.domains.images.operators import GaussianBlur, Inpainting, SuperResolution
from ctrlgen.methods import DDRM, DPS, OTODE, CPiGDM, CPiGFM, Method, PiGDM
from ctrlgen.methods.analytic.cpigdm import truncated
from ctrlgen.methods.tuned import Case, build
from ctrlgen.operators.base import LinearOperator
from ctrlgen.sampling.grids import Uniform

__all__ = [
    "DECAYS",
    "FORMS",
    "METHODS",
    "NOISE",
    "NOISY",
    "PAIRS",
    "SWEEPS",
    "SWEPT",
    "TASKS",
    "WEIGHTS",
    "noisy_settings",
    "settings",
]

NOISE = 0.05

TASKS: dict[str, Callable[[tuple[int, ...]], LinearOperator]] = {
    "inpaint": lambda shape: Inpainting.centre(10, shape),
    "sr2": lambda shape: SuperResolution(2),
    "sr4": lambda shape: SuperResolution(4),
    "deblur": lambda shape: GaussianBlur(1.0),
}
NOISY = ("sr4", "deblur")  # small singular values are what the approximation is about
FORMS = ("exact", "released")

METHODS = {
    "c-pigdm": "C-ΠGDM",
    "pigdm": "ΠGDM",
    "c-pigfm": "C-ΠGFM",
    "c-pigfm-released": "C-ΠGFM, released",
    "pigfm": "ΠGFM",
    "ddrm": "DDRM",
    "dps": "DPS",
}
PAIRS = (("c-pigdm", "pigdm"), ("c-pigfm", "pigfm"), ("c-pigfm-released", "pigfm"))

SWEPT = "sr4"
SWEEPS = ("c-pigdm", "c-pigfm")
DECAYS = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5)
WEIGHTS = (2.0, 4.0, 8.0, 15.0, 30.0, 60.0)

_TAUS = (0.25, 0.4, 0.8)  # 0.4 is the published start; inpainting wants one nearer to the noise
_TIMES = (0.1, 0.3, 0.5)


def settings(name: str, task: str, operator: LinearOperator, steps: int) -> dict[str, Method]:
    """Nine settings of a method by a label.

    Args:
        name: of METHODS.
        task: of TASKS.
        operator: of the task.
        steps: of the method, each one evaluation.
    """
    match name:
        case "c-pigdm":
            return _diffusion(CPiGDM(decay=0.0), steps, (4.0, 15.0, 40.0))
        case "pigdm":
            return _diffusion(PiGDM(), steps, (2.0, 6.0, 15.0))
        case "c-pigfm":
            return _flow(CPiGFM(), steps, (8.0, 20.0, 60.0))
        case "c-pigfm-released":
            return _flow(CPiGFM(jacobian="released"), steps, (8.0, 20.0, 60.0))
        case "pigfm":
            return _flow(OTODE(), steps, (0.5, 1.0, 3.0))
    base = build(name, Case(operator), evaluations=steps)
    starts = (0.0, 0.3, 0.6)
    if isinstance(base, DDRM):
        return {
            f"η {eta:g}, t {t:g}": replace(base, eta=eta, grid=Uniform(steps, t))
            for eta, t in product((0.0, 0.5, 0.85), starts)
        }
    assert isinstance(base, DPS)
    # From a truncated start there is something of the image in the state, that of H†y.
    return {
        f"ζ {base.rho * factor:.3g}, t {t:g}": replace(
            base,
            rho=base.rho * factor,
            grid=Uniform(steps, t),
            start="guided" if t else "source",
        )
        for factor, t in product((0.1, 0.3, 1.0), starts)
    }


def _diffusion(
    base: CPiGDM | PiGDM, steps: int, weights: tuple[float, ...], taus: tuple[float, ...] = _TAUS
) -> dict[str, Method]:
    return {
        f"w {w:g}, τ {tau:g}": replace(base, weight=w, grid=truncated(steps, tau))
        for w, tau in product(weights, taus)
    }


def _flow(base: CPiGFM | OTODE, steps: int, weights: tuple[float, ...]) -> dict[str, Method]:
    return {
        f"w {w:g}, t {t:g}": replace(base, weight=w, grid=Uniform(steps, t))
        for w, t in product(weights, _TIMES)
    }


def noisy_settings(form: str, steps: int) -> dict[str, Method]:
    """Nine settings of C-ΠGDM for noise in y by a label; the published w is 2 in 5 steps."""
    base = CPiGDM(decay=0.0, noisy="exact" if form == "exact" else "released")
    return _diffusion(base, steps, (2.0, 8.0, 30.0), (0.25, 0.4, 0.6))
