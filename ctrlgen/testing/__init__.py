"""Checks that users and tests share: what a computation would do on an accelerator, without one."""

from ctrlgen.testing.accelerator import DEVICE, Accelerator, Ledger
from ctrlgen.testing.synchronisation import observed, watched

__all__ = ["DEVICE", "Accelerator", "Ledger", "observed", "watched"]
