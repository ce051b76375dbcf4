"""What users and tests share: oracles, calibration, and what a computation asks of a device.

calibrate           a method against the exact posterior: moments, intervals, ranks
Mixture, gaussian   priors about which everything is known in closed form
Accelerator         what a computation would do on an accelerator, without one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.testing.accelerator import DEVICE, Accelerator, Ledger
    from ctrlgen.testing.calibration import Calibration, calibrate
    from ctrlgen.testing.jacobians import euler_product, ordered_exponential
    from ctrlgen.testing.oracles import Mixture, gaussian
    from ctrlgen.testing.posteriors import posterior
    from ctrlgen.testing.synchronisation import observed, watched

__all__ = [
    "DEVICE",
    "Accelerator",
    "Calibration",
    "Ledger",
    "Mixture",
    "calibrate",
    "euler_product",
    "gaussian",
    "observed",
    "ordered_exponential",
    "posterior",
    "watched",
]

__getattr__, __dir__ = attach(__name__)
