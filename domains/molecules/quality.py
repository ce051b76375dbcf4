"""Measured quality of the embedded molecular networks, written into their cards.

    python -m ctrlgen.domains.molecules.quality qm9-heavy --data data/qm9
    python -m ctrlgen.domains.molecules.quality qm9-heavy --data data/qm9 --churn 2 --steps 50 100
    python -m ctrlgen.domains.molecules.quality qm9-evaluator --data data/qm9

Of a prior: 1,000 molecules at 10, 20, 50 and 100 midpoint steps, molecule i from seed i, its size
from D_b's histogram by the same seed; stability, validity, uniqueness, novelty against D_b and
connectivity (`metrics`), and for the heavy alphabet once more after the hydrogens were placed; with
`--churn` at as many stochastic steps (`ctrlgen.sampling.samplers`), beside the others. Of a
regressor: mean absolute errors on the test split and on D_b, which D-Flow's table calls the lower
bound where the network was trained on D_a. Numbers go to weights/quality/<name>.json and into the
card, with a picture of the loss over the time of training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry, rdkit
from ctrlgen.domains.molecules.atom_counts import sizes
from ctrlgen.domains.molecules.data import Molecules, read
from ctrlgen.domains.molecules.elements import classes_of
from ctrlgen.domains.molecules.metrics import assess, reference_smiles
from ctrlgen.domains.molecules.molecule_batches import drawn, stepping
from ctrlgen.domains.molecules.perception import perceive
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressors import Regressor, load_regressor
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.domains.molecules.training import WEIGHTS, targets_of
from ctrlgen.priors.cards import Card
from ctrlgen.priors.prior import Prior, load
from ctrlgen.rows.seeds import uniform
from ctrlgen.runs.json_files import dumps, write_json
from ctrlgen.sampling.grids import Grid, Power
from ctrlgen.training.curves import loss_curve

__all__ = [
    "draw_counts",
    "errors",
    "measure_prior",
    "measure_regressor",
    "predicted",
    "record",
    "rounded",
    "sample",
]

_SIZE = 12  # stream of the draws of n


def draw_counts(name: str, seeds: Sequence[int]) -> Tensor:
    """Numbers of atoms by the data's histogram, at least two, one per seed, shape (B,)."""
    table = sizes(name)
    members = table.members.double() * (table.atoms > 1)
    share = members.cumsum(0) / members.sum()
    places = uniform(seeds, (1,), _SIZE, dtype=torch.float64).flatten()
    return table.atoms[torch.searchsorted(share, places)]


def sample(
    prior: Prior,
    name: str,
    count: int,
    steps: int,
    batch: int = 250,
    grid: Grid | None = None,
    churn: float | None = None,
) -> Tensor:
    """Signals (count, N, 3 + K) of an unconditional prior, from seeds 0, 1, ...

    Args:
        prior: of molecules.
        name: its alphabet.
        count: molecules.
        steps: midpoint steps, or stochastic ones.
        batch: molecules at a time.
        grid: of the steps; the prior's by default.
        churn: λ of stochastic steps; None for those of the ODE.
    """
    solver = stepping(prior, steps, churn, grid)
    return drawn(prior, draw_counts(name, range(count)), solver, batch)


def rounded(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary with its shares and means to four decimals."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in summary.items()}


def _completed(signal: Tensor) -> dict[str, Any]:
    """Metrics of all atoms once hydrogens were placed on heavy skeletons."""
    parts = split(signal)
    perceived = perceive(parts.positions, parts.hard, "qm9-heavy")
    bare = rdkit.mols(parts.positions, parts.hard, "qm9-heavy")
    # A skeleton that cannot be completed stays as it is, with open valences.
    skeletons = [mol or graph for mol, graph in zip(perceived, bare, strict=True)]
    placed = chemistry.place_hydrogens(skeletons)
    whole = [mol or bare for mol, bare in zip(placed, skeletons, strict=True)]
    numbers, positions = rdkit.arrays(whole)
    return rounded(assess(positions, classes_of(numbers), "qm9").summary())


def measure_prior(
    name: str,
    data: Path | None,
    count: int,
    steps: Sequence[int],
    completed: int | None = 50,
    grid: Grid | None = None,
    churn: float | None = None,
) -> dict[str, Any]:
    """Quality of a prior, see the module.

    Args:
        name: "qm9" or "qm9-heavy".
        data: folder of QM9; None leaves novelty out.
        count: molecules.
        steps: of the midpoint rule.
        completed: for which of them hydrogens are placed as well.
        grid: of the steps; that of the card by default.
        churn: λ of stochastic steps; None for the midpoint rule.
    """
    prior = load(name)
    assert prior.card is not None
    grid = grid or prior.grid
    reference = None if data is None else reference_smiles(data, name, "D_b")
    rows = []
    for number in steps:
        started = time.process_time()
        signal = sample(prior, name, count, number, grid=grid, churn=churn)
        seconds = time.process_time() - started
        parts = split(signal)
        stochastic = {} if churn is None else {"churn": churn}
        row: dict[str, Any] = {
            "steps": number,
            **stochastic,
            "seconds_per_molecule": round(seconds / count, 4),
        }
        row |= rounded(assess(parts.positions, parts.hard, name, reference).summary())
        if name == "qm9-heavy" and number == completed:
            row["completed"] = _completed(signal)
        rows.append(row)
        print(dumps(row, indent=None), file=sys.stderr, flush=True)
    recipe = {key: prior.card.recipe[key] for key in ("steps", "seconds", "batch")}
    steps_at = {"type": type(grid).__name__, **grid.config()}
    return {"samples": count, "trained": recipe, "grid": steps_at, "rows": rows}


def predicted(network: Regressor, known: Molecules, count: int | None = None) -> Tensor:
    """What a regressor says of the first molecules, all of them where count is None, (N, P)."""
    parts = []
    for rows in torch.arange(len(known))[:count].split(256):
        classes = known.classes[rows]
        places = int(known.counts[rows].max())
        signal = join(known.positions[rows, :places], classes[:, :places], network.classes)
        with torch.no_grad():
            parts.append(network.of(split(signal), "hard"))
    return torch.cat(parts)


def errors(
    network: Regressor, name: str, data: Path, part: str, count: int | None = None
) -> dict[str, float]:
    """Mean absolute error on a split of QM9, in the units of `PROPERTIES`."""
    known = read(name, data, part)  # type: ignore[arg-type]
    away = (predicted(network, known, count) - targets_of(known, count)).abs()
    return dict(zip(PROPERTIES, away.mean(0).tolist(), strict=True))


def record(card: Card, quality: dict[str, Any], churn: float | None) -> None:
    """Write a quality into a card: that of stochastic steps beside the other, either stays."""
    if churn is not None:
        card.quality = {**card.quality, "stochastic": quality}
    else:
        card.quality = {**quality, **{k: v for k, v in card.quality.items() if k == "stochastic"}}


def measure_regressor(name: str, data: Path, count: int | None = None) -> dict[str, Any]:
    """Quality of a regressor, see the module.

    Args:
        name: of the regressor.
        data: folder of QM9.
        count: molecules of D_b; the test split is always whole.
    """
    network = load_regressor(name)
    alphabet = "qm9-heavy" if "heavy" in name else "qm9"
    units = {key: value.unit for key, value in PROPERTIES.items()}
    found = {part: errors(network, alphabet, data, part, n) for part, n in (("test", None),)}
    if count != 0:
        found["D_b"] = errors(network, alphabet, data, "D_b", count)
    return {
        "units": units,
        **{
            part: {key: round(value, PROPERTIES[key].decimals + 1) for key, value in row.items()}
            for part, row in found.items()
        },
    }


def _summary(name: str, content: dict[str, Any]) -> str:
    """One line for a table."""
    if "rows" in content:
        row = max(content["rows"], key=lambda row: row["steps"] == 50)
        return (
            f"{row['molecule_stable']:.1%} of molecules and {row['atom_stable']:.1%} of atoms "
            f"stable, {row['valid_unique']:.1%} valid and unique, of {content['samples']} at "
            f"{row['steps']} {'stochastic' if 'churn' in row else 'midpoint'} steps"
        )
    row = content["test"]
    words = (f"{key} {row[key]:g} {content['units'][key]}" for key in PROPERTIES)
    return f"test MAE {', '.join(words)}"


def main() -> None:
    """Command line: measure a network, write its JSON and its card."""
    parser = argparse.ArgumentParser(description="Measure an embedded molecular network.")
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, help="folder of QM9; no novelty without it")
    parser.add_argument("--samples", type=int, default=1000, help="molecules of a prior")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument(
        "--grid", type=float, metavar="POWER", help="steps at 1 - (1 - s)^POWER; the card's if none"
    )
    parser.add_argument("--churn", type=float, help="rate of noise; the midpoint rule if none")
    parser.add_argument("--no-write", action="store_true", help="print, and leave the card alone")
    parser.add_argument("--molecules", type=int, default=None, help="molecules of D_b; all if none")
    parser.add_argument("--cards", type=Path, default=WEIGHTS, help="folder of the card")
    options = parser.parse_args()
    file = options.cards / f"{options.name}.json"
    card = Card.read(file)
    command = f"python -m ctrlgen.domains.molecules.quality {options.name}"
    command += " --data FOLDER" * (options.data is not None)
    if options.data is None and not card.path:
        parser.error("--data: expected the folder of QM9 for a regressor")
    if card.path:
        grid = None if options.grid is None else Power(power=options.grid)
        content = measure_prior(
            options.name,
            options.data,
            options.samples,
            options.steps,
            grid=grid,
            churn=options.churn,
        )
        command += f" --samples {options.samples} --steps {' '.join(map(str, options.steps))}"
        if options.grid is not None:
            command += f" --grid {options.grid:g}"
        if options.churn is not None:
            command += f" --churn {options.churn:g}"
    else:
        content = measure_regressor(options.name, options.data, options.molecules)
        if options.molecules is not None:
            command += f" --molecules {options.molecules}"
    quality = {"summary": _summary(options.name, content), "command": command, **content}
    if options.no_write:
        print(dumps(quality))
        return
    kind = "" if options.churn is None else "-stochastic"
    record(card, quality, options.churn)
    folder = options.cards / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{options.name}{kind}.json", quality)
    card.write(file)
    log = options.cards / f"{options.name}.log.jsonl"
    if log.is_file():
        loss_curve(log, folder / f"{options.name}-loss.png", "molecules")
    print(dumps(quality))


if __name__ == "__main__":
    main()
