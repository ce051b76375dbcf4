r"""Drug-like molecules with RDKit's scores where they are wanted, by chance and by steering.

    python -m ctrlgen.experiments.molecules.drugs --data data/moses --molecules 32

Wishes are intervals of QED, logP and SA, which RDKit computes exactly from the finished molecule,
so what is met is met. Numbers of heavy atoms are those that MOSES has, by seed; rows share them.

    unguided         one draw of the prior by stochastic steps
    best whole of K  the draw whose scores are nearest, whole ones first
    guidance         the gradient of the guide's scores of the denoised molecule in every such step
                     (DPS-like), of a strength chosen with other noise; the best whole of as many
    renoising        the best whole draws put back to noise half-way and drawn again, and so on

All but the first have as many evaluations of the network a molecule, forward and backward. Errors
are distances from the intervals in the scores' scales (`rdkit_scores.SCALES`), the root of their
squares; a molecule without scores has none and meets nothing. Beside each wish stands how many of
MOSES's own molecules meet it, from which the prior learned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from ctrlgen.domains.molecules import moses_data
from ctrlgen.domains.molecules.data import Molecules as Data
from ctrlgen.domains.molecules.drug_quality import plain_smiles, training_smiles
from ctrlgen.domains.molecules.molecule_batches import CHURN, alphabet_of
from ctrlgen.domains.molecules.perception import name as name_of
from ctrlgen.domains.molecules.quality import draw_counts
from ctrlgen.domains.molecules.rdkit_scores import SCALES, ScoreWish, parse_scores
from ctrlgen.domains.molecules.regressors import load_regressor
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import split
from ctrlgen.domains.molecules.views import Molecules
from ctrlgen.experiments.molecules.draws import best
from ctrlgen.experiments.molecules.drug_rows import Bench, drawn, guidance, renoising
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish
from ctrlgen.experiments.shared.tables import head
from ctrlgen.priors.prior import load
from ctrlgen.report.comparison import paired
from ctrlgen.report.intervals import mean_of
from ctrlgen.report.sections import Metric

__all__ = ["METHODS", "WISHES", "main", "measure", "run", "table"]

PRIOR, GUIDE = "moses-heavy", "moses-heavy-guide"
WISHES = ("qed>=0.9", "qed>=0.9,sa<=2,logp=2..3", "logp>=5", "logp<=-1")
METHODS = ("unguided", "best whole of K", "guidance", "renoising")


def measure(bench: Bench, signals: Tensor, known: set[str] | None) -> dict[str, Any]:
    """A row in numbers, a list of one per molecule each."""
    name = alphabet_of(bench.prior)
    mols = Molecules(name)(signals)
    names = name_of(mols)
    texts = [plain_smiles(own) for own in names]
    sound = [mol if text else None for mol, text in zip(mols, texts, strict=True)]
    parts = split(signals)
    squares, met = np.zeros(len(texts)), np.ones(len(texts), bool)
    scores = {}
    for wish in bench.wishes:
        values = wish.values(sound)
        scores[wish.name] = [math.nan if value is None else value for value in values]
        away = np.array([_distance(wish, value) for value in values])
        squares, met = squares + away**2, met & [wish.met(value) is True for value in values]
    return {
        "error": np.sqrt(squares).tolist(),
        "met": met.tolist(),
        "stable": stability(parts.positions, parts.hard, name).molecules.tolist(),
        "valid": [text is not None for text in texts],
        "novel": [text is not None and text not in (known or ()) for text in texts],
        "distinct": len({text for text in texts if text}),
        "scores": scores,
        "smiles": texts,
    }


def _distance(wish: ScoreWish, value: float | None) -> float:
    """From an interval, in the scale of the score; NaN where there is no score."""
    if value is None:
        return math.nan
    low, high = wish.bounds
    return max(low - value, value - high, 0.0) / SCALES[wish.name]


def run(
    bench: Bench, rows: Rows, asked: Sequence[str], budget: int, known: set[str] | None
) -> None:
    """The rows of a wish that are asked for."""
    number = max(1, budget // bench.steps)
    plain = {"evaluations": float(bench.steps), "settings": "K = 1"}
    several = {"evaluations": float(number * bench.steps), "settings": f"K = {number}"}
    ways: dict[str, Callable[[], tuple[Tensor, dict[str, Any]]]] = {
        "unguided": lambda: (drawn(bench)(bench.seeds), plain),
        "best whole of K": lambda: (
            best(drawn(bench), bench.seeds, number, bench.standing),
            several,
        ),
        "guidance": lambda: guidance(bench, budget),
        "renoising": lambda: renoising(bench, budget),
    }
    for name in asked:

        def row(name: str = name) -> tuple[dict[str, Any], Tensor]:
            began = time.process_time()
            with torch.no_grad():
                signals, account = ways[name]()
            account = {**account, "seconds": time.process_time() - began}
            return {**account, **measure(bench, signals, known)}, signals

        rows.get(name, row)


def share(data: Data, wishes: Sequence[ScoreWish]) -> float:
    """The part of some molecules that meets the wishes."""
    met = torch.ones(len(data), dtype=torch.bool)
    for wish in wishes:
        values = data.properties[wish.name]
        low, high = wish.bounds
        met &= (values >= low) & (values <= high)
    return float(met.double().mean())


def table(results: dict[str, Any]) -> str:
    """Markdown: one table per wish, and what the best draws lose to others, pair by pair."""
    lines, metric = (
        [f"# Scores of drug-like molecules, prior `{PRIOR}`\n"],
        Metric("error", "", "lower"),
    )
    for text, content in results["wishes"].items():
        lines += [f"## {text}, met by {100 * content['share']:.2g} % of the training set\n"]
        lines += head(
            "| row | error | met | stable | valid | not in MOSES | distinct | network evaluations "
            "| s/molecule |"
        )
        rows = content["rows"]
        for name, row in rows.items():
            number = len(row["met"])
            shares = [f"{100 * np.mean(row[k]):.0f} %" for k in ("met", "stable", "valid", "novel")]
            cells = [
                mean_of(row["error"]).text(2), *shares, f"{row['distinct']}",
                f"{row['evaluations']:.0f}", f"{row['seconds'] / number:.1f}",
            ]  # fmt: skip
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
        for name in ("guidance", "renoising"):
            other = "best whole of K"
            if name not in rows or other not in rows:
                continue
            told = paired(rows[other]["error"], rows[name]["error"], metric)
            if told.low is None:
                continue
            lines.append(
                f"- {name}'s error against that of {other}: {told.difference:+.2f} "
                f"[{told.low:+.2f}, {told.high:+.2f}], {told.valued} of {told.pairs} pairs."
            )
        lines.append("")
    return "\n".join(lines)


def main(
    data: Annotated[Path, typer.Option(help="folder of MOSES, or packed")] = Path("data/moses"),
    molecules: Annotated[int, typer.Option(min=1, help="of each wish")] = 32,
    wish: Annotated[list[str] | None, typer.Option(help="qed>=0.9,sa<=2; repeat it")] = None,
    methods: Annotated[str, typer.Option(help="with commas between")] = ",".join(METHODS),
    steps: Annotated[int, typer.Option(min=1, help="stochastic steps of a draw")] = 50,
    budget: Annotated[int, typer.Option(min=1, help="evaluations a molecule")] = 800,
    strengths: Annotated[str, typer.Option(help="of guidance, to choose from")] = "1e-4,3e-4,1e-3",
    prior: Annotated[str, typer.Option(help="name or card")] = PRIOR,
    guide: Annotated[str, typer.Option(help="name")] = GUIDE,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it; writes results.json and a table."""
    torch.set_num_threads(threads)
    ways = names("methods", methods, METHODS)
    asked = {text: parse_scores(text) for text in wish or WISHES}
    network, own = load_regressor(guide, device=device), load(prior, device=device)
    known, train = training_smiles(data), moses_data.read(data, "train")
    tried = [float(word) for word in strengths.split(",")]
    assert own.card is not None
    key: dict[str, Any] = {
        "prior": own.card.sha256, "guide": guide, "molecules": molecules, "steps": steps,
        "budget": budget, "strengths": tried, "churn": CHURN,
    }  # fmt: skip
    results: dict[str, Any] = {**key, "wishes": {}}
    counts = draw_counts(alphabet_of(own), range(molecules))
    for text, wishes in asked.items():
        bench = Bench(own, network, wishes, counts, steps, tried)
        rows = Rows(cache / "drugs" / text.replace(",", "_"), key)
        run(bench, rows, ways, budget, known)
        results["wishes"][text] = {"share": share(train, wishes), "rows": rows.rows}
    publish(out or RESULTS / "drug_scores", results, table(results))


if __name__ == "__main__":
    typer.run(main)
