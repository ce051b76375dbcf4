"""What every method asks of an accelerator beside its network, measured without one.

    python benchmarks/synchronisation.py [--out benchmarks/results/synchronisation.json]
        [--before FILE] [--only NAME ...]

Runs every method of the laws' registry (four samples of six numbers), and D-Flow and TFG on the
embedded prior of heavy atoms with guide, valences and masks, on the pretended accelerator of
`ctrlgen.testing`. Columns, each per evaluation of the network:

    waits        how often the host has to wait for the device between the first and the last
                 evaluation: reads of values, copies, host data made device tensors
    ends         the same before the first and after the last evaluation, in the whole run
    operations   dispatched operations outside the network's forward (backward passes included)

and, in the whole run, `mixed`: operations that would fail, on tensors of host and device at once.
`--before` takes the JSON that this command wrote at an earlier commit, for columns beside its own.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ctrlgen import load
from ctrlgen.costs import PropertyCost
from ctrlgen.domains.molecules.costs import ValenceCost
from ctrlgen.domains.molecules.judges import regressor
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.methods import TFG, DFlow
from ctrlgen.methods.regularizers import Chi
from ctrlgen.optimizers import LBFGS
from ctrlgen.runs.json_files import write_results
from ctrlgen.sampling.grids import Uniform
from ctrlgen.solvers import Midpoint
from ctrlgen.testing import DEVICE, Accelerator, Ledger, watched

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/synchronisation.json"
KEYS = ("waits", "ends", "operations", "mixed")
SEEDS = [7, 3, 11, 2]
COUNTS = [7, 5]
TARGET = 5000.0  # meV, of the gap

MOLECULES: dict[str, Any] = {
    "dflow on qm9-heavy": DFlow(
        solver=Midpoint(1), optimizer=LBFGS(max_iterations=2), regularizer=Chi(0.01)
    ),
    "tfg on qm9-heavy": TFG(
        grid=Uniform(2, 0.1), clock=None, rho=0.003, mu=0.003, gamma=0.05, draws=2
    ),
}


def laws() -> dict[str, Any]:
    """The methods of the laws' tests, which lie beside this folder."""
    sys.path.insert(0, str(ROOT))
    from tests.laws.cases.methods import METHODS

    return METHODS


def molecule(accelerator: Accelerator, method: Any) -> Ledger:
    """A run on the prior of heavy atoms, with all that steering molecules takes."""
    prior = load("qm9-heavy").bind(counts=torch.tensor(COUNTS)).to(DEVICE)
    guide = regressor("qm9-heavy-guide").to(DEVICE)
    gap = PropertyCost(Guide(guide, ["gap"]), TARGET, TARGET, scale=1000.0)
    cost = gap + 0.3 * ValenceCost("qm9-heavy")
    return watched(accelerator, method, prior, cost, SEEDS[: len(COUNTS)])


def registered(accelerator: Accelerator, case: Any) -> Ledger:
    """A run of a method of the registry."""
    method, prior, cost = case.problem(torch.arange(4).to(DEVICE), torch.float64)
    return watched(accelerator, method, prior, cost, SEEDS)


def runs() -> dict[str, Callable[[Accelerator], Ledger]]:
    """All runs by name."""
    table = laws()
    return {
        **{n: lambda a, case=case: registered(a, case) for n, case in table.items()},
        **{n: lambda a, method=method: molecule(a, method) for n, method in MOLECULES.items()},
    }


def row(ledger: Ledger) -> dict[str, Any]:
    """The numbers of one run, and where it waited."""
    within, calls = ledger.within, max(ledger.evaluations, 1)
    places = Counter(f"{what} at {where}" for what, where, _ in within)
    ends = Counter(f"{what} at {where}" for what, where, _ in ledger.log)
    ends.subtract(places)
    return {
        "evaluations": ledger.evaluations,
        "waits": round(len(within) / calls, 3),
        "ends": len(ledger.log) - len(within),
        "operations": round(ledger.operations / calls, 1),
        "mixed": ledger.mixed.total(),
        "where": dict(places.most_common()),
        "at the ends": dict(+ends),
        "mixes": {f"{what} at {where}": n for (what, where), n in ledger.mixed.most_common()},
        "host": {f"{what} at {where}": n for (what, where), n in ledger.host.most_common()},
    }


def markdown(rows: dict[str, Any], before: dict[str, Any]) -> str:
    """The table."""
    heads = ["run", "evaluations", *(k for key in KEYS for k in (key, "before"))]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, own in rows.items():
        old = before.get(name, {})
        cells = [name, own["evaluations"]]
        for key in KEYS:
            cells += [own[key], old.get(key, "")]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="JSON to write; the table lies beside it")] = RESULTS,
    before: Annotated[Path | None, typer.Option(help="JSON of an earlier commit")] = None,
    only: Annotated[list[str] | None, typer.Option(help="runs; all by default")] = None,
) -> None:
    """Measure, print the table and write it."""
    torch.set_num_threads(1)
    old = json.loads(before.read_text())["rows"] if before else {}
    rows: dict[str, Any] = {}
    for name, call in runs().items():
        if only and name not in only:
            continue
        try:
            with Accelerator() as accelerator:
                rows[name] = row(call(accelerator))
        except Exception as error:
            rows[name] = {"evaluations": 0, "error": f"{type(error).__name__}: {error}"}
            rows[name] |= dict.fromkeys(KEYS, "fails")
    out.parent.mkdir(parents=True, exist_ok=True)
    if before is not None:
        for name, own in rows.items():
            own["before"] = {k: v for k, v in old.get(name, {}).items() if k in KEYS}
    write_results(out, {"torch": torch.__version__, "rows": rows}, named=False)
    table = markdown(rows, old)
    out.with_suffix(".md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    typer.run(main)
