"""Methods without gradients at equal calls of a scorer: molecules with a wanted dipole by xTB.

    python benchmarks/blackbox.py --calls 192 --repeats 2 --minutes 45

Heavy skeletons of nine atoms from the prior `qm9-heavy`. The black box is GFN2-xTB's dipole of the
molecule with its hydrogens, calibrated to QM9's, in debye; what is no molecule in one piece has
none. The cost is the squared distance to the target. Half of the targets are where QM9 is, half
where it hardly is. Every method asks the scorer as often for every molecule; the error is that of
the molecule which it returns. Results are written after each group of targets, so that a run that
ends early is a smaller run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ctrlgen as cg
from ctrlgen.domains.molecules import Molecules, chemistry
from ctrlgen.methods import Method
from ctrlgen.runs.json_files import dumps, read_json, write_results

TYPICAL, RARE = (1.0, 2.0, 3.0, 4.5), (7.0, 8.5, 10.0, 12.0)
"""Targets in debye."""
ATOMS, STEPS = 9, 4
OUT = Path(__file__).parent / "results" / "blackbox.json"


def dipole(mols: Sequence[Any]) -> list[float]:
    """xTB's dipole of each molecule in one piece, in debye; NaN where there is none."""
    from rdkit import Chem

    whole = [m if m is not None and len(Chem.GetMolFrags(m)) == 1 else None for m in mols]
    return [found.mu for found in chemistry.xtb(whole)]


def methods(calls: int, prior: cg.Prior) -> dict[str, Method]:
    """Each asks the scorer `calls` times, a multiple of 48, for every molecule."""
    solver = prior.solver(STEPS)
    return {
        "best-of": cg.BestOf(n=calls, solver=solver, chunk=16),
        "evolution": cg.EvolutionStrategy(
            draws=calls // 3, population=16, generations=calls // 24, solver=solver, chunk=16,
            sphere=True, tolerance=0.0,
        ),
        "renoising": cg.RenoisingSearch(
            draws=calls // 3, children=16, generations=calls // 24, solver=solver, chunk=16,
        ),
        "particles": cg.ParticleResampling(
            population=16, grid=cg.Uniform(20), looks=0, moves=calls // 16 - 1, depth=6,
            strength=50.0, chunk=16,
        ),
        "trust-region": cg.TrustRegionSearch(
            draws=calls // 3, batch=8, rounds=calls // 12, solver=solver, chunk=16, smallest=0.0,
        ),
    }  # fmt: skip


def run(method: Method, targets: Sequence[float], first: int) -> list[dict[str, Any]]:
    """One molecule for each target."""
    count = len(targets)
    prior = cg.load("qm9-heavy").bind(counts=torch.full((count,), ATOMS))
    box = cg.BlackBoxCost(dipole, view=Molecules("qm9-heavy"))
    cost = cg.LevelSet(box, torch.tensor(targets))
    begin, spent = time.perf_counter(), time.process_time()
    result = method(prior, cost, seeds=range(first, first + count))
    seconds = time.perf_counter() - begin
    return [
        {
            "target_D": target,
            "seed": first + row,
            "error_D": float(result.costs[row]) ** 0.5,
            "calls": int(result.objective_calls[row]),
            "evaluations": int(result.evaluations[row]),
            "status": cg.Status(int(result.status[row])).label,
            "unscored": box.failures / max(1, box.calls),
            "seconds": seconds / count,
            "cpu_seconds_without_scorer": (time.process_time() - spent) / count,
        }
        for row, target in enumerate(targets)
    ]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and mean errors, in debye, of typical targets, rare ones and all."""
    groups = {"typical": TYPICAL, "rare": RARE, "all": TYPICAL + RARE}
    table: dict[str, Any] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        table[name] = {
            group: {
                "molecules": len(errors),
                "median_error_D": statistics.median(errors),
                "mean_error_D": statistics.fmean(errors),
            }
            for group, targets in groups.items()
            if (errors := [row["error_D"] for row in own if row["target_D"] in targets])
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=192, help="of the scorer for each molecule")
    parser.add_argument("--repeats", type=int, default=2, help="molecules of each target")
    parser.add_argument("--minutes", type=float, default=1e9, help="no group begins after these")
    parser.add_argument("--only", nargs="*", help="methods")
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.calls < 192 or options.calls % 48:
        parser.error(f"calls: expected a multiple of 48 from 192 on, got {options.calls}")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.only and options.out.is_file():  # those of the other methods stay
        earlier = read_json(options.out)
        if earlier["calls"] != options.calls:
            parser.error(f"calls: {options.out} has {earlier['calls']}")
        rows = [row for row in earlier["rows"] if row["method"] not in options.only]
    begin = time.monotonic()
    for repeat in range(options.repeats):
        for group_number, targets in enumerate(zip(TYPICAL, RARE, strict=True)):
            if time.monotonic() - begin > 60 * options.minutes:
                break
            group = []
            for name, method in methods(options.calls, cg.load("qm9-heavy")).items():
                if options.only and name not in options.only:
                    continue
                found = run(method, targets, 100 * (1 + repeat) + 10 * group_number)
                group += [{"method": name, **row} for row in found]
                print(name, [round(row["error_D"], 3) for row in found], flush=True)
            rows += group
            content = {
                "calls": options.calls,
                "solver_steps": STEPS,
                "machine": platform.processor() or platform.machine(),
                "summary": summary(rows),
                "rows": rows,
            }
            write_results(options.out, content)
    print(dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
