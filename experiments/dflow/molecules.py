r"""Molecules with wanted properties on QM9: Tables 4, 5, 7 and 8 of arXiv 2402.14017, at our size.

    python -m ctrlgen.experiments.dflow.molecules --data data/qm9 --molecules 256
    python -m ctrlgen.experiments.dflow.molecules --data data/qm9 --molecules 10000 --prior qm9

Targets (n, c) are those of molecules drawn from D_b, written to `targets.csv`; every row of the
table has the same targets, and rows that start from noise the same noise. Rows:

    unguided         the prior, given n alone
    same-n shuffle   the property of another real molecule of n atoms: what a perfect prior scores
    per-n median     the median of D_b's molecules of n atoms: the best constant given n
    nearest          the entry of D_b, the molecule itself left out, whose property is nearest
    best whole of K  of K draws of the prior the one that the guide likes best, those in one piece
                     with all atoms stable first; K such that the network is evaluated as often as
                     by D-Flow, forward and backward
    guidance         the gradient of the cost of the denoised molecule in every step (DPS-like), of
                     a strength that is chosen on a few of the molecules with other noise
    D-Flow (paper)   the source point of every molecule by its own L-BFGS, 25 evaluations from one
                     draw, its cost the property alone
    D-Flow           the same with the valences as a cost, from the best whole of fewer
                     draws, and again for molecules that are not at their targets or not whole

Columns, all over all molecules: the error of the guide, which was steered by (the paper scores with
the network that it optimises: the "paper protocol"), the error of an evaluator trained on other
molecules (the headline), which sees hydrogens placed by MMFF94s, the error on stable molecules
alone, the GFN2-xTB dipole, QM9's own calculation for the molecules that are in QM9, EDM's stability
and validity, validity for a chemist (`perception`),
valid and distinct molecules, those of them that D_b or all of QM9 does not have, network
evaluations (forward and backward) and seconds of a molecule. Intervals are bootstrap 95 %. What has
no number (no hydrogens, no convergence) is counted beside the mean of the others. A row that is
finished for these weights lies under `runs/` and is not run again: its molecules are kept, and
measured again where the measures have changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from safetensors.torch import save

from ctrlgen.commands.console import dumps
from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.files import write_csv
from ctrlgen.domains.molecules.judges import regressor, regressor_card
from ctrlgen.domains.molecules.molecule_batches import alphabet_of
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.scoring import EVALUATOR, GUIDES, evaluate, score
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.experiments.dflow.molecules_figures import figures, table
from ctrlgen.experiments.dflow.molecules_rows import (
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
from ctrlgen.experiments.shared.dft_labels import Labels
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads
from ctrlgen.experiments.shared.rows import RESULTS
from ctrlgen.priors.cards import write_whole
from ctrlgen.priors.prior import load
from ctrlgen.runs.json_files import write_json, write_results

__all__ = ["main", "measure", "run"]


MEASURES = 3
"""Counts up when `measure` says something else of the same molecules."""


def save_row(file: Path, key: dict[str, Any], row: Row) -> None:
    """Keep a finished row: its molecules or values, and what they took."""
    tensors = {"signals": row.signals, "values": row.values}
    about = {"key": key, "evaluations": row.evaluations, "seconds": row.seconds}
    text = dumps({**about, "settings": row.settings})
    there = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    write_whole(file, save(there, metadata={"row": text}))


def load_row(file: Path, key: dict[str, Any]) -> Row | None:
    """A row that was kept for the same key; None where there is none."""
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["row"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if about.pop("key") != json.loads(dumps(key)):
        return None
    return Row(**tensors, **about)


def measure(bench: Bench, row: Row) -> dict[str, Any]:
    """A row in numbers: errors of single molecules, and the metrics of all of them."""
    found: dict[str, Any] = {
        "settings": row.settings,
        "evaluations": row.evaluations,
        "seconds": (row.seconds or 0.0) / len(bench.counts),
    }
    if row.signals is None:
        assert row.values is not None
        return {**found, "error": (row.values - bench.targets).abs().tolist()}
    scores = score(row.signals, alphabet_of(bench.prior), guide=bench.guide)
    judged = evaluate(bench.evaluator, scores.mols)
    column = list(PROPERTIES).index(bench.name)
    found |= {
        "guide": scores.guide[:, column].tolist(),
        "evaluator": judged[:, column].tolist(),
        "stable": scores.assessment.stable.tolist(),
        "valid": scores.valid.tolist(),
        "smiles": [own.smiles for own in scores.names],
        "metrics": scores.summary(),
    }
    there = [names.mol if names.valid else None for names in scores.names]
    found["label"] = bench.labels(there)[:, column].tolist()
    if bench.name == "mu":
        found["xtb"] = [answer.mu for answer in chemistry.xtb(scores.mols)]
    return found


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
    saved("best whole of K", lambda: best_of_draws(bench, draws))
    saved("guidance", lambda: guidance(bench, strengths))
    saved("D-Flow (paper)", lambda: dflow(bench, published(bench.settings)))


def run(
    bench: Bench, strengths: Sequence[float], folder: Path, key: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The rows of one property, taken from a folder where they lie there for the same key."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}

    def saved(label: str, compute: Callable[[], Row]) -> Row:
        stem = folder / f"{bench.name}-{label.replace(' ', '-')}"
        row = load_row(stem.with_suffix(".safetensors"), key)
        if row is None:
            began = time.perf_counter()
            row = compute()
            if row.seconds is None:
                row.seconds = time.perf_counter() - began
            save_row(stem.with_suffix(".safetensors"), key, row)
        file, own = stem.with_suffix(".json"), {**key, "measures": MEASURES}
        if file.exists() and (known := json.loads(file.read_text()))["key"] == own:
            rows[label] = known["row"]
        else:
            began = time.perf_counter()
            # through JSON, so that a row is the same whether it was computed or read
            rows[label] = json.loads(dumps(measure(bench, row)))
            write_json(file, {"key": own, "row": rows[label]})
            taken = (row.seconds or 0.0), time.perf_counter() - began
            typer.echo(f"{bench.name}, {label}: {taken[0]:.0f} s, measured in {taken[1]:.0f} s")
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
    draws: Annotated[int, typer.Option(help="screened for each start of D-Flow")] = 32,
    restarts: Annotated[int, typer.Option(help="of D-Flow")] = 3,
    tolerance: Annotated[float, typer.Option(help="where D-Flow stops, in deviations")] = 0.05,
    normalise: Annotated[str, typer.Option(help="none, isotropic or feature (paper)")] = "none",
    strengths: Annotated[str, typer.Option(help="of guidance, to choose from")] = "0.01,0.1,1",
    guide: Annotated[str, typer.Option(help="card or name; the prior's by default")] = "",
    evaluator: Annotated[str, typer.Option(help="card or name")] = EVALUATOR,
    batch: Annotated[int, typer.Option(help="molecules at a time")] = 64,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it; writes results, targets, a table and figures."""
    torch.set_num_threads(threads)
    names = [word.strip() for word in properties.split(",")]
    unknown = [name for name in names if name not in PROPERTIES]
    if unknown:
        raise ValueError(f"properties: expected some of {', '.join(PROPERTIES)}, got {unknown}")
    tried = [float(word) for word in strengths.split(",")]
    settings = Settings(
        steps=steps, evaluations=evaluations, restarts=restarts, tolerance=tolerance,
        draws=draws, batch=batch, normalise=normalise,  # type: ignore[arg-type]
    )  # fmt: skip
    model = load(prior, device=device)
    alphabet = alphabet_of(model)
    known = read(alphabet, data, "D_b")
    labels = Labels(data)
    large = (known.counts > 1).nonzero().flatten()
    draw = torch.Generator().manual_seed(0)
    chosen = large[torch.randperm(len(large), generator=draw)[:molecules]]
    networks = {"guide": guide or GUIDES[alphabet], "evaluator": evaluator}
    loaded = {key: regressor(name, device) for key, name in networks.items()}
    assert model.card is not None
    label = model.card.name
    key = {
        "prior": model.card.sha256, "molecules": molecules, "settings": repr(settings),
        "strengths": tried,
        "networks": {k: regressor_card(name)[0].sha256 for k, name in networks.items()},
    }  # fmt: skip
    out = out or RESULTS / f"qm9_{label}"
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
            known.index[chosen], known, settings, batch, labels,
        )  # fmt: skip
        results["targets"][name] = targets.tolist()
        results["rows"][name] = run(bench, tried, cache / "qm9_properties" / label, key)
        write_results(out / "results.json", results, named=False)
        (out / "table.md").write_text(table(results))
    figures(results, out)
    typer.echo(table(results))


if __name__ == "__main__":
    typer.run(main)
