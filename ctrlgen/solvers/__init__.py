r"""Solving dx/dt = u_t(x) differentiably, from noise to data and back.

One step of an explicit Runge-Kutta method with stages k_i is

    k_i = u(x + h Σ_{j<i} a_ij k_j, t + c_i h),      x' = x + h Σ_i b_i k_i,

per sample: t and h are (B,) throughout, so that samples may run on clocks of their own. How the
gradient passes through a solve is a value handed to the solver, not another solver:

    direct       the graph of every stage is kept (memory ∝ evaluations);
    checkpoint   only the states between steps are kept, stages are evaluated again on the way
                 back (Chen et al., arXiv 1604.06174): the same gradient, one more forward;
    adjoint      the continuous adjoint da/dt = −(∂u/∂x)^T a is solved backwards in time with the
                 same method (Chen et al., arXiv 1806.07366): constant memory, a gradient that is
                 that of the ODE rather than of its discretisation.

The first two differentiate the discrete map exactly, which line searches need. Gradients reach the
initial state; `direct` and `checkpoint` also reach whatever the velocity closes over.

The adaptive solver controls the error of every sample by itself: a batch of one and a batch of a
thousand take the same steps, which a norm over the batch would not.
"""

from __future__ import annotations

from ctrlgen.solvers.adaptive import Dopri5
from ctrlgen.solvers.base import Gradient, Solver, Velocity
from ctrlgen.solvers.fixed import RK4, Euler, FixedStep, Heun, Midpoint

__all__ = [
    "RK4",
    "Dopri5",
    "Euler",
    "FixedStep",
    "Gradient",
    "Heun",
    "Midpoint",
    "Solver",
    "Velocity",
]
