"""What chemistry says of a molecule: hydrogens, strain, geometry checks, xTB. One answer each.

Every function takes a list of molecules and returns a list of the same length. What cannot be
answered (no molecule, no force-field parameters, a time limit) is an answer with `error` set and
NaN for its numbers, so that nothing leaves a denominator. All work runs in a helper process with
a time limit; see `subprocesses` and `worker`.

    relax        MMFF94s strain in kcal/mol and RMSD in A (Halgren 1999)
    posebusters  the "mol" checks of Buttenschoen et al. (arXiv 2308.05777)
    xtb          GFN2-xTB (Bannwarth et al. 2019) by tblite; the dipole is calibrated on QM9,
                 mu ≈ slope mu_xtb + offset, fitted on real molecules by `calibrate`
"""

from __future__ import annotations

import argparse
import base64
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ctrlgen.domains.molecules import graphs
from ctrlgen.domains.molecules.subprocesses import Helper, HelperError
from ctrlgen.extras import require
from ctrlgen.json_files import dumps, write_json

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "Busted",
    "Relaxed",
    "Xtb",
    "calibrate",
    "determine_bonds",
    "place_hydrogens",
    "posebusters",
    "relax",
    "xtb",
]

T = TypeVar("T")

_CALIBRATION = Path(__file__).with_name("xtb.json")


class Relaxed(NamedTuple):
    """strain in kcal/mol >= 0, rmsd in A over all atoms, converged, the relaxed molecule."""

    strain: float = math.nan
    rmsd: float = math.nan
    converged: bool = False
    mol: Mol | None = None
    error: str = ""


class Busted(NamedTuple):
    """passed: all checks; checks: each by name."""

    passed: bool = False
    checks: dict[str, bool] = {}  # noqa: RUF012 - never written to
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


def _packed(mol: Mol) -> str:
    return base64.b64encode(mol.ToBinary()).decode()


def _unpacked(text: str) -> Mol:
    from rdkit import Chem

    return Chem.Mol(base64.b64decode(text))  # type: ignore[call-overload]


def _each(
    mols: Sequence[Mol | None],
    timeout: float,
    answer: Callable[[Helper, Mol], T],
    failed: Callable[[str], T],
) -> list[T]:
    found = []
    with Helper(timeout) as helper:
        for mol in mols:
            if mol is None or not mol.GetNumAtoms():
                found.append(failed("no molecule"))
                continue
            try:
                found.append(answer(helper, mol))
            except HelperError as error:
                found.append(failed(str(error)))
    return found


def place_hydrogens(mols: Sequence[Mol | None], timeout: float = 20.0) -> list[Mol | None]:
    """Molecules with every counted hydrogen placed; heavy atoms stay where they are.

    Where the force field has no parameters, or the time is over, hydrogens stay where the geometry
    of the neighbours puts them. None stays None, as does what RDKit cannot complete at all.

    Args:
        mols: heavy skeletons as of `graphs.mols(..., "qm9-heavy")`.
        timeout: seconds for one molecule.
    """
    from rdkit import Chem

    def place(helper: Helper, mol: Mol) -> Mol:
        return _unpacked(helper.ask("hydrogens", mol=_packed(mol))["mol"])

    placed: list[Mol | None] = _each(mols, timeout, place, lambda error: None)
    for row, (mol, done) in enumerate(zip(mols, placed, strict=True)):
        if mol is None or not mol.GetNumAtoms():
            placed[row] = mol
        elif done is None:
            try:
                placed[row] = graphs.complete(mol)
            except ValueError:
                placed[row] = None
        else:
            Chem.SanitizeMol(done, catchErrors=True)
    return placed


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

    def one(helper: Helper, mol: Mol) -> Relaxed:
        reply = helper.ask("relax", mol=_packed(mol), steps=steps)
        relaxed = _unpacked(reply["mol"])
        return Relaxed(reply["strain"], reply["rmsd"], reply["converged"], relaxed)

    return _each(mols, timeout, one, lambda error: Relaxed(error=error))


def posebusters(mols: Sequence[Mol | None], timeout: float = 60.0) -> list[Busted]:
    """PoseBusters' checks of a molecule by itself: lengths, angles, planarity, clashes, energy.

    Raises:
        MissingExtra: PoseBusters is not installed.
    """
    require("posebusters", "molecules")

    def one(helper: Helper, mol: Mol) -> Busted:
        checks = helper.ask("posebusters", module="posebusters", mol=_packed(mol))["checks"]
        return Busted(all(checks.values()), checks)

    return _each(mols, timeout, one, lambda error: Busted(error=error))


def xtb(mols: Sequence[Mol | None], charge: int = 0, timeout: float = 60.0) -> list[Xtb]:
    """GFN2-xTB of complete molecules, no relaxation.

    Raises:
        MissingExtra: tblite is not installed.
    """
    require("tblite.interface", "molecules")
    fit = json.loads(_CALIBRATION.read_text()) if _CALIBRATION.is_file() else None

    def one(helper: Helper, mol: Mol) -> Xtb:
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

    return _each(mols, timeout, one, lambda error: Xtb(error=error))


def determine_bonds(
    numbers: Sequence[int], positions: Any, charge: int = 0, timeout: float = 20.0
) -> Mol:
    """A molecule from elements and positions (n, 3) in A by RDKit's own bond perception.

    Raises:
        HelperError: RDKit found no bonds for this charge, or the time was over.
    """
    require("rdkit", "molecules")
    with Helper(timeout) as helper:
        places = [[float(v) for v in row] for row in positions]
        request: dict[str, Any] = {
            "numbers": [int(n) for n in numbers],
            "positions": places,
            "charge": charge,
        }
        return _unpacked(helper.ask("bonds", **request)["mol"])


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
    found = xtb(graphs.mols(data.positions, data.classes))
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
