r"""The dipole moment of GFN1-xTB as a differentiable property, by dxtb (an extra of its own).

dxtb (Friede et al., J. Chem. Phys. 161, 062501, 2024) computes extended tight binding in PyTorch,
so μ = |−∂E/∂F| of a molecule in a field F → 0 has a gradient with respect to the positions. It
takes elements as numbers: classes get no gradient, and molecules must have all their atoms, so this
goes with priors of the alphabet "qm9". It needs numpy < 2 and seconds per gradient;
`scoring.Guide` is the quick way.

    cost = PropertyCost(XTBDipole(), 3.0, 3.0, scale=DEVIATION["mu"])
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.domains.molecules.elements import atomic_numbers
from ctrlgen.domains.molecules.states import split
from ctrlgen.extras import require

__all__ = ["XTBDipole"]

_BOHR, _DEBYE = 0.529177211, 2.541746473


class XTBDipole:
    """Signals (B, N, 8) of all-atom molecules to dipole moments (B, 1) in D.

    Raises:
        MissingExtra: dxtb is not installed.
    """

    def __init__(self) -> None:
        self.dxtb = require("dxtb", "dxtb")
        require("tad_libcint", "dxtb")

    def __call__(self, signal: Tensor) -> Tensor:
        parts = split(signal)
        numbers = atomic_numbers(parts.hard, "qm9")
        place = {"device": signal.device, "dtype": torch.float64}
        # The dipole is the derivative of the energy by a field that is there, and zero.
        field = torch.zeros(3, **place, requires_grad=True)  # type: ignore[call-overload]
        calculator = self.dxtb.Calculator(
            numbers,
            self.dxtb.GFN1_XTB,
            interaction=[self.dxtb.external.new_efield(field)],
            opts={"scf_mode": "full", "mixer": "anderson", "verbosity": 0, "batch_mode": 1},
            **place,
        )
        charge = torch.zeros(len(signal), **place)  # type: ignore[call-overload]
        vectors = calculator.get_dipole(parts.positions.double() / _BOHR, charge)
        length = (vectors.square().sum(1, keepdim=True) + 1e-12).sqrt()
        return (_DEBYE * length).to(signal)
