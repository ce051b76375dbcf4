r"""Molecules with wanted properties on QM9: Tables 4, 5, 7 and 8 of arXiv 2402.14017, at our size.

    python -m ctrlgen.experiments.qm9_properties --data data/qm9 --molecules 256
    python -m ctrlgen.experiments.qm9_properties --data data/qm9 --molecules 10000 --prior qm9

Targets (n, c) are those of molecules drawn from D_b, written to `targets.csv`; every row of the
table has the same targets, and rows that start from noise the same noise. Rows:

    unguided         the prior, given n alone
    same-n shuffle   the property of another real molecule of n atoms: what a perfect prior scores
    per-n median     the median of D_b's molecules of n atoms: the best constant given n
    nearest          the entry of D_b, the molecule itself left out, whose property is nearest
    best of K        of K draws of the prior the one that the guide likes best; K such that the
                     network is evaluated as often as by D-Flow, forward and backward
    best whole of K  of the same draws, those in one piece with all atoms stable first
    guidance         the gradient of the cost of the denoised molecule in every step (DPS-like), of
                     a strength that is chosen on a few of the molecules with other noise
    D-Flow (paper)   the source point of every molecule by its own L-BFGS, 25 evaluations from one
                     draw, its cost the property alone
    D-Flow           the same with the valences as a cost, from the best of a few draws, and again
                     for molecules that are not at their targets or not whole

Columns, all over all molecules: the error of the guide, which was steered by (the paper scores with
the network that it optimises: the "paper protocol"), the error of an evaluator trained on other
molecules (the headline), the error on stable molecules alone, the GFN2-xTB dipole, stability,
validity, uniqueness, novelty, evaluations and seconds per molecule. Intervals are bootstrap 95 %.
A row that is finished for these weights lies under `runs/` and is not run again.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ctrlgen.console import dumps
from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.design import regressor, regressor_card
from ctrlgen.domains.molecules.files import write_csv
from ctrlgen.domains.molecules.generation import Settings
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.ragged import alphabet_of
from ctrlgen.domains.molecules.scoring import EVALUATOR, GUIDES, evaluate, score
from ctrlgen.domains.molecules.sheets import reference_of
from ctrlgen.domains.molecules.sizes import DEVIATION
from ctrlgen.experiments.qm9_rows import (
    Bench,
    Row,
    best_of_draws,
    dflow,
    guidance,
    medians,
    nearest,
    published,
    shuffled,
    unguided,
)
from ctrlgen.priors import load

__all__ = ["PUBLISHED", "bootstrap", "main", "measure", "run", "summary", "table"]

PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(("alpha", "gap", "homo", "lumo", "mu", "cv"), values, strict=True))
    for name, values in {
        "EDM (conditional)": (2.76, 655, 356, 584, 1.111, 1.101),
        "EquiFM (conditional)": (2.41, 591, 337, 530, 1.106, 1.033),
        "GeoLDM (conditional)": (2.37, 587, 340, 522, 1.108, 1.025),
        "EEGSDE (separate guide)": (2.50, 487, 302, 447, 0.777, 0.941),
        "D-Flow (evaluator = guide)": (1.39, 344, 182, 330, 0.300, 0.784),
    }.items()
}
"""Mean absolute errors of the literature, in the package's units; its own evaluators."""


def bootstrap(values: Tensor, draws: int = 1000) -> tuple[float, float, float]:
    """Mean and its 95 % interval by bootstrap; NaN entries are left out, none left gives NaN."""
    known = values[values.isfinite()].double()
    if not len(known):
        return math.nan, math.nan, math.nan
    draw = torch.Generator().manual_seed(0)
    means = known[torch.randint(len(known), (draws, len(known)), generator=draw)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(known.mean()), low, high


def measure(bench: Bench, row: Row, seconds: float) -> dict[str, Any]:
    """A row in numbers: errors of single molecules, and the metrics of all of them."""
    found: dict[str, Any] = {
        "settings": row.settings,
        "evaluations": row.evaluations,
        "seconds": seconds / len(bench.counts),
    }
    if row.signals is None:
        assert row.values is not None
        return {**found, "error": (row.values - bench.targets).abs().tolist()}
    scores = score(
        row.signals, alphabet_of(bench.prior), guide=bench.guide, reference=bench.reference
    )
    judged = evaluate(bench.evaluator, scores.mols)
    column = list(PROPERTIES).index(bench.name)
    told = scores.assessment
    found |= {
        "guide": scores.guide[:, column].tolist(),
        "evaluator": judged[:, column].tolist(),
        "stable": told.stable.tolist(),
        "valid": told.valid.tolist(),
        "smiles": told.smiles,
        "metrics": told.summary(),
    }
    if bench.name == "mu":
        found["xtb"] = [answer.mu for answer in chemistry.xtb(scores.mols)]
    return found


def summary(row: dict[str, Any], targets: Tensor, deviation: float) -> dict[str, Any]:
    """Mean errors with their intervals; `hacked`: the guide within 0.1 deviations, not the other.

    Args:
        row: of `measure`.
        targets: shape (B,).
        deviation: mean absolute deviation of the property.
    """
    if "error" in row:
        return {"real": bootstrap(torch.tensor(row["error"]))}
    found: dict[str, Any] = {}
    errors = {
        key: (torch.tensor([math.nan if v is None else v for v in row[key]]) - targets).abs()
        for key in ("guide", "evaluator", "xtb")
        if key in row
    }
    found = {key: bootstrap(error) for key, error in errors.items()}
    stable = torch.tensor(row["stable"])
    found["evaluator, stable"] = bootstrap(errors["evaluator"][stable])
    lost = ~(errors["evaluator"] <= 0.5 * deviation)
    found["hacked"] = float(((errors["guide"] <= 0.1 * deviation) & lost).double().mean())
    found["judged"] = float(errors["evaluator"].isfinite().double().mean())
    return found


def table(results: dict[str, Any]) -> str:
    """The tables as markdown, one per property."""
    lines = [f"# Properties of QM9, prior `{results['prior']}`, {results['molecules']} molecules\n"]
    for name, rows in results["rows"].items():
        known = PROPERTIES[name]
        targets, digits = torch.tensor(results["targets"][name]), known.decimals + 1

        def cell(value: Any, digits: int = digits) -> str:
            mean, low, high = value
            return (
                f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if mean == mean else "-"
            )

        lines += [
            f"\n## {known.text} ({known.unit})\n",
            "| row | evaluator MAE | guide MAE (paper protocol) | evaluator, stable only | xTB | "
            "stable | atoms stable | valid | valid x unique | novel | hacked | evals | s/mol |",
            "|" + "---|" * 13,
        ]
        for label, row in rows.items():
            told = summary(row, targets, DEVIATION[name])
            if "real" in told:
                lines.append(f"| {label} (real values) | {cell(told['real'])} |" + " - |" * 11)
                continue
            shares = row["metrics"]
            wanted = ("molecule_stable", "atom_stable", "valid", "valid_unique", "novel")
            cells = [
                cell(told["evaluator"]), cell(told["guide"]), cell(told["evaluator, stable"]),
                cell(told["xtb"]) if "xtb" in told else "-",
                *("-" if shares.get(k) is None else f"{100 * shares[k]:.1f} %" for k in wanted),
                f"{100 * told['hacked']:.0f} %", f"{row['evaluations']:.0f}",
                f"{row['seconds']:.2f}",
            ]  # fmt: skip
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        for label, values in PUBLISHED.items():
            lines.append(f"| *{label}, published* | {values[name]:g} |" + " - |" * 11)
    return "\n".join(lines) + "\n"


def rows_of(
    bench: Bench, strengths: Sequence[float], saved: Callable[[str, Callable[[], Row]], Row]
) -> None:
    """All rows of a property, D-Flow first: its evaluations set K."""
    guided = saved("D-Flow", lambda: dflow(bench))
    draws = max(1, round(guided.evaluations / (2 * bench.settings.steps)))
    saved("unguided", lambda: unguided(bench))
    saved("same-n shuffle", lambda: shuffled(bench))
    saved("per-n median", lambda: medians(bench))
    saved("nearest", lambda: nearest(bench))
    drawn = functools.cache(lambda: best_of_draws(bench, draws))
    for label in ("best of K", "best whole of K"):
        saved(label, lambda label=label: drawn()[label])  # type: ignore[misc]
    saved("guidance", lambda: guidance(bench, strengths))
    saved("D-Flow (paper)", lambda: dflow(bench, published(bench.settings)))


def run(
    bench: Bench, strengths: Sequence[float], folder: Path, key: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The rows of one property, taken from a folder where they lie there for the same key."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}

    def saved(label: str, compute: Callable[[], Row]) -> Row:
        file = folder / f"{bench.name}-{label.replace(' ', '-')}.json"
        if file.exists() and (known := json.loads(file.read_text()))["key"] == key:
            rows[label] = known["row"]
            return Row(evaluations=known["row"]["evaluations"])
        began = time.perf_counter()
        row = compute()
        seconds = time.perf_counter() - began if row.seconds is None else row.seconds
        rows[label] = measure(bench, row, seconds)
        # through JSON, so that a row is the same whether it was computed or read
        rows[label] = json.loads(dumps(rows[label]))
        file.write_text(dumps({"key": key, "row": rows[label]}))
        typer.echo(f"{bench.name}, {label}: {time.perf_counter() - began:.0f} s")
        return row

    rows_of(bench, strengths, saved)
    return rows


def main(
    data: Annotated[Path, typer.Option(help="folder of QM9")] = Path("data/qm9"),
    prior: Annotated[str, typer.Option(help="qm9-heavy, qm9 or a card")] = "qm9-heavy",
    molecules: Annotated[int, typer.Option(help="per property; 10,000 in the paper")] = 16,
    properties: Annotated[str, typer.Option(help="names with commas between")] = "gap",
    steps: Annotated[int, typer.Option(help="midpoint steps of the flow")] = 10,
    evaluations: Annotated[int, typer.Option(help="of D-Flow's objective, per start")] = 12,
    restarts: Annotated[int, typer.Option(help="of D-Flow")] = 3,
    tolerance: Annotated[float, typer.Option(help="where D-Flow stops, in deviations")] = 0.05,
    normalise: Annotated[str, typer.Option(help="none, isotropic or feature (paper)")] = "none",
    strengths: Annotated[str, typer.Option(help="of guidance, to choose from")] = "0.01,0.1,1",
    guide: Annotated[str, typer.Option(help="card or name; the prior's by default")] = "",
    evaluator: Annotated[str, typer.Option(help="card or name")] = EVALUATOR,
    novelty: Annotated[bool, typer.Option(help="compare with the SMILES of training")] = True,
    batch: Annotated[int, typer.Option(help="molecules at a time")] = 64,
    out: Annotated[Path | None, typer.Option(help="folder of results")] = None,
    cache: Annotated[Path, typer.Option(help="folder of finished rows")] = Path("runs"),
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Run the experiment, or what is left of it; writes results.json, targets.csv and a table."""
    torch.set_num_threads(threads)
    names = [word.strip() for word in properties.split(",")]
    unknown = [name for name in names if name not in PROPERTIES]
    if unknown:
        raise ValueError(f"properties: expected some of {', '.join(PROPERTIES)}, got {unknown}")
    tried = [float(word) for word in strengths.split(",")]
    settings = Settings(
        steps=steps, evaluations=evaluations, restarts=restarts, tolerance=tolerance,
        batch=batch, normalise=normalise,  # type: ignore[arg-type]
    )  # fmt: skip
    model = load(prior, device=device)
    alphabet = alphabet_of(model)
    known = read(alphabet, data, "D_b")
    large = (known.counts > 1).nonzero().flatten()
    draw = torch.Generator().manual_seed(0)
    chosen = large[torch.randperm(len(large), generator=draw)[:molecules]]
    networks = {"guide": guide or GUIDES[alphabet], "evaluator": evaluator}
    loaded = {key: regressor(name, device) for key, name in networks.items()}
    reference = reference_of(None, alphabet) if novelty else None
    assert model.card is not None
    label = model.card.name
    key = {
        "prior": model.card.sha256, "molecules": molecules, "settings": repr(settings),
        "strengths": tried,
        "networks": {k: regressor_card(name)[0].sha256 for k, name in networks.items()},
    }  # fmt: skip
    out = out or Path(__file__).parent / "results" / f"qm9_{label}"
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {**key, "prior": label, "rows": {}, "targets": {}}
    rows = [
        {"molecule": int(i), "atoms": int(n), **{p: float(known.properties[p][c]) for p in names}}
        for c, i, n in zip(chosen, known.index[chosen], known.counts[chosen], strict=True)
    ]
    write_csv(out / "targets.csv", rows)
    for name in names:
        targets = known.properties[name][chosen].float()
        bench = Bench(
            model, loaded["guide"], loaded["evaluator"], name, known.counts[chosen], targets,
            known.index[chosen], known, reference, settings, batch,
        )  # fmt: skip
        results["targets"][name] = targets.tolist()
        results["rows"][name] = run(bench, tried, cache / "qm9_properties" / label, key)
        (out / "results.json").write_text(dumps(results) + "\n")
        (out / "table.md").write_text(table(results))
    typer.echo(table(results))


if __name__ == "__main__":
    typer.run(main)
