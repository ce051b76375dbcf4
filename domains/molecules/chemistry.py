"""What chemistry says of a molecule: hydrogens, strain, geometry checks, xTB. One answer each.

Every function takes a list of molecules and returns a list of the same length. What cannot be
answered (no molecule, no force-field parameters, a time limit) is an answer with `error` set and
NaN for its numbers, so that nothing leaves a denominator. All work runs in a helper process with
a time limit; see `subprocesses` and `chemistry_process`.

    relax        MMFF94s strain in kcal/mol and RMSD in A (Halgren 1999)
    posebusters  the "mol" checks of Buttenschoen et al. (arXiv 2308.05777)
    xtb          GFN2-xTB (Bannwarth et al. 2019) by tblite; the dipole is calibrated on QM9,
                 mu ≈ slope mu_xtb + offset, fitted on real molecules by `calibrate`
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctrlgen.domains.molecules import rdkit
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError, each, packed, unpacked
from ctrlgen.extras import require
from ctrlgen.runs.json_files import dumps, write_json

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "Busted",
    "Relaxed",
    "Xtb",
    "calibrate",
    "place_hydrogens",
    "posebusters",
    "relax",
    "xtb",
]

_CALIBRATION = Path(__file__).with_name("xtb.json")


class Relaxed(NamedTuple):
    """strain in kcal/mol >= 0, rmsd in A over all atoms, converged, the relaxed molecule."""

    strain: float = math.nan
    rmsd: float = math.nan
    converged: bool = False
    mol: Mol | None = None
    error: str = ""


class Busted(NamedTuple):
    """passed: all checks, None where none failed and one could not be made; checks: each by name,
    None where it could not be made.
    """

    passed: bool | None = False
    checks: dict[str, bool | None] = {}  # noqa: RUF012 - never written to
    error: str = ""


class Xtb(NamedTuple):
    """mu in D calibrated on QM9 and as computed; homo, lumo, gap in meV as computed, for direction
    only; gradient: root mean square over coordinates in eV/A, about 0.23 for QM9's geometries.
    """

    mu: float = math.nan
    mu_raw: float = math.nan
    homo: float = math.nan
    lumo: float = math.nan
    gap: float = math.nan
    gradient: float = math.nan
    error: str = ""


def place_hydrogens(mols: Sequence[Mol | None], timeout: float = 20.0) -> list[Mol | None]:
    """Molecules with every counted hydrogen placed; heavy atoms stay where they are.

    Where the force field has no parameters, or the time is over, hydrogens stay where the geometry
    of the neighbours puts them; none is farther than 1.3 A from its atom. None stays None.

    Args:
        mols: heavy skeletons with counted hydrogens, as of `perception.perceive`.
        timeout: seconds for one molecule.
    """

    def place(helper: Helper, row: int, mol: Mol) -> Mol | None:
        for fields in (True, False):  # what ran out of time is placed by geometry alone
            with contextlib.suppress(HelperError):
                return unpacked(helper.ask("hydrogens", mol=packed(mol), field=fields)["mol"])
        return None

    placed: list[Mol | None] = each(mols, timeout, place, lambda error: None)
    return [
        done if mol is not None and mol.GetNumAtoms() else mol
        for mol, done in zip(mols, placed, strict=True)
    ]


def relax(mols: Sequence[Mol | None], steps: int = 500, timeout: float = 20.0) -> list[Relaxed]:
    """MMFF94s relaxation of complete molecules.

    Args:
        mols: with all hydrogens as atoms.
        steps: most iterations of the minimiser.
        timeout: seconds for one molecule.

    Raises:
        ValueError: steps below 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")

    def one(helper: Helper, row: int, mol: Mol) -> Relaxed:
        reply = helper.ask("relax", mol=packed(mol), steps=steps)
        relaxed = unpacked(reply["mol"])
        return Relaxed(reply["strain"], reply["rmsd"], reply["converged"], relaxed)

    return each(mols, timeout, one, lambda error: Relaxed(error=error))


def posebusters(mols: Sequence[Mol | None], timeout: float = 60.0) -> list[Busted]:
    """PoseBusters' checks of a molecule by itself: lengths, angles, planarity, clashes, energy.

    Raises:
        MissingExtra: PoseBusters is not installed.
    """
    require("posebusters", "molecules")

    def one(helper: Helper, row: int, mol: Mol) -> Busted:
        checks = helper.ask("posebusters", module="posebusters", mol=packed(mol))["checks"]
        told = set(checks.values())
        return Busted(False if False in told else None if None in told else True, checks)

    return each(mols, timeout, one, lambda error: Busted(error=error))


def xtb(mols: Sequence[Mol | None], charge: int = 0, timeout: float = 60.0) -> list[Xtb]:
    """GFN2-xTB of complete molecules, no relaxation.

    Raises:
        MissingExtra: tblite is not installed.
    """
    require("tblite.interface", "molecules")
    fit = json.loads(_CALIBRATION.read_text()) if _CALIBRATION.is_file() else None

    def one(helper: Helper, row: int, mol: Mol) -> Xtb:
        reply = helper.ask(
            "xtb",
            module="tblite.interface",
            numbers=[atom.GetAtomicNum() for atom in mol.GetAtoms()],
            positions=mol.GetConformer().GetPositions().tolist(),
            charge=charge,
        )
        raw = reply["mu"]
        mu = math.nan if fit is None else max(0.0, fit["slope"] * raw + fit["offset"])
        homo, lumo = 1e3 * reply["homo"], 1e3 * reply["lumo"]
        return Xtb(mu, raw, homo, lumo, lumo - homo, reply["gradient"])

    return each(mols, timeout, one, lambda error: Xtb(error=error))


def calibrate(folder: str | Path, count: int = 1000) -> dict[str, float | int]:
    """Fit the xTB dipole to QM9's on half of `count` molecules of valid; test on the other half.

    Returns:
        slope, offset (D), the mean absolute error and correlation on the second half, and the mean
        absolute deviation that a constant would leave there.
    """
    import numpy as np
    import torch

    from ctrlgen.domains.molecules.data import read

    data = read("qm9", folder, "valid")
    data = data.take(torch.linspace(0, len(data) - 1, count).long())
    found = xtb(rdkit.mols(data.positions, data.classes))
    raw, real = np.array([x.mu_raw for x in found]), data.properties["mu"].double().numpy()
    answered = np.isfinite(raw)
    fit, check = answered & (np.arange(count) % 2 == 0), answered & (np.arange(count) % 2 == 1)
    slope, offset = np.polyfit(raw[fit], real[fit], 1)
    error = np.abs(slope * raw[check] + offset - real[check]).mean()
    return {
        "slope": float(slope),
        "offset": float(offset),
        "mae": float(error),
        "correlation": float(np.corrcoef(raw[check], real[check])[0, 1]),
        "constant": float(np.abs(real[check] - np.median(real[fit])).mean()),
        "gradient": float(np.median([x.gradient for x in found if not x.error])),
        "fitted": int(fit.sum()),
        "checked": int(check.sum()),
        "failed": int((~answered).sum()),
    }


def main() -> None:
    """Command line: calibrate and write `xtb.json`."""
    parser = argparse.ArgumentParser(description=calibrate.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of QM9")
    parser.add_argument("--count", type=int, default=1000, help="molecules of valid")
    options = parser.parse_args()
    fit = calibrate(options.data, options.count)
    write_json(_CALIBRATION, fit)
    print(dumps(fit))


if __name__ == "__main__":
    main()
