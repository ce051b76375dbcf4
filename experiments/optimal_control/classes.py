r"""MNIST digits of a wanted class through a classifier: the non-linear problem of arXiv 2412.16748.

    python -m ctrlgen.experiments.optimal_control.classes
    python -m ctrlgen.experiments.optimal_control.classes --images 100 --methods d-flow,dps,mpgd

The prior is that of MNIST without a label, the cost −log p(c | x) of the embedded
`mnist-classifier`, the guide; sample i wants the class i mod 10 and has a seed of its own, none of
those on which settings were chosen. Every method that takes a differentiable cost without a
measurement runs at about a hundred evaluations of the network a sample; what it made is in the
table, backward passes beside it. Methods that optimise stop a sample at 0.01 nats, where the guide
is 99 % sure.

A guide can be satisfied by what is no digit, so agreement is judged by another network
(`mnist_judge`), whose accuracy on real digits is recorded; where guide and judge differ, the guide
was fooled. The named Frechet distance is that to held-out digits, in the features of the guide
itself: it too may be fooled, and at so few samples it ranks, it does not measure. Baselines: the
prior's own samples, one class in ten by chance; its samples under the label, which it was trained
with; real digits that are not among those compared with. All samples count: one that diverged with
its last finite state, which no classifier needs to like.

A row that is finished for these weights lies under `runs/`, and so does the judge; `results.json`
under `experiments/results` holds all rows, with the table and the figures beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import ctrlgen
from ctrlgen.costs import ClassifierCost
from ctrlgen.domains.images.classifier import load_classifier
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.frechet import embed, frechet_distance
from ctrlgen.experiments.optimal_control.classes_judge import judge as load_judge
from ctrlgen.experiments.optimal_control.classes_settings import METHODS
from ctrlgen.experiments.shared.options import Cache, Device, Out, Threads, names
from ctrlgen.experiments.shared.rows import RESULTS, Rows, publish, timed
from ctrlgen.priors.prior import Prior
from ctrlgen.solvers import Midpoint

__all__ = ["BASELINES", "CLASSES", "Bench", "main", "verdicts"]

CLASSES = 10
FIRST = 1000  # seed of the first sample; settings were chosen on lower ones
BASELINES = ("unguided", "conditional", "real")
EMBEDDER = "FD-MNISTClassifier"
STEPS = 50  # midpoint steps of the prior's own samples, a hundred evaluations
FOOLED = 0.1  # share of the samples of which the guide may be sure and the judge not


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes:
        prior: of MNIST, unbound.
        guide: the classifier of the cost, and the embedder of the distance.
        judge: another classifier.
        wanted: classes, shape (B,), int64.
        real: as many held-out digits as samples, shape (B, 1, 28, 28), classes as wanted.
        features: of the other held-out digits, by the guide, shape (N, d).
    """

    prior: Prior
    guide: Any
    judge: nn.Module
    wanted: Tensor
    real: Tensor
    features: Tensor

    @property
    def seeds(self) -> range:
        return range(FIRST, FIRST + len(self.wanted))

    def cost(self) -> ClassifierCost:
        """−log p(wanted | x) of the guide, in nats."""
        return ClassifierCost(self.guide, self.wanted)

    def scores(self, images: Tensor) -> dict[str, Any]:
        """What guide, judge and distance say of samples (B, 1, 28, 28).

        They see the pixels of a picture, in [-1, 1], not what a method may have left beyond.
        """
        seen = images.clamp(-1, 1)
        with torch.no_grad():
            logits = {"guide": self.guide(seen), "judge": self.judge(seen)}
            found: dict[str, Any] = {
                name: (value.argmax(1) == self.wanted).tolist() for name, value in logits.items()
            }
            cost = self.cost()(seen)
        distance = frechet_distance(embed(self.guide.features, seen), self.features)
        return {
            **found,
            "cost": cost.tolist(),
            "frechet": {
                "embedder": EMBEDDER,
                "images": len(seen),
                "reference": len(self.features),
                "value": float(distance),
            },
        }


def run_row(bench: Bench, name: str) -> tuple[dict[str, Any], Tensor]:
    """A method on all samples at once."""
    method = METHODS[name]
    result, account = timed(method, bench.prior, bench.cost(), bench.seeds)
    row = {**bench.scores(result.samples), **account}
    return row, result.samples


def baseline_row(bench: Bench, name: str) -> tuple[dict[str, Any], Tensor]:
    """Samples of the prior, with the label or without it, or real digits."""
    began = time.process_time()
    if name == "real":
        images, evaluations = bench.real, 0
    else:
        bound = bench.prior.bind(label=bench.wanted) if name == "conditional" else bench.prior
        images, evaluations = bound.sample(bench.seeds, Midpoint(STEPS)), 2 * STEPS
    row = {
        **bench.scores(images),
        "evaluations": evaluations,
        "vjps": 0,
        "jvps": 0,
        "status": {},
        "diverged": 0,
        "seconds": time.process_time() - began,
        "threads": torch.get_num_threads(),
    }
    return row, images


def verdicts(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the numbers say of every method, decided here and nowhere else.

    Per method: `works`, more than half of its samples of the wanted class by the judge;
    `fooled`, the share of samples that the guide takes for it and the judge does not;
    `digits`, that share is at most `FOOLED`; and `rivals_label`, at least as many agree by the
    judge as of the prior's own conditional samples.

    Args:
        rows: of the experiment, by name, "conditional" among them.
    """
    own = sum(rows["conditional"]["judge"])
    found = {}
    for name, row in rows.items():
        if name in BASELINES:
            continue
        agree = sum(row["judge"])
        pairs = zip(row["guide"], row["judge"], strict=True)
        fooled = sum(guide and not judge for guide, judge in pairs) / len(row["judge"])
        found[name] = {
            "works": 2 * agree > len(row["judge"]),
            "fooled": fooled,
            "digits": fooled <= FOOLED,
            "rivals_label": agree >= own,
        }
    return found


def run(bench: Bench, rows: Rows, methods: list[str]) -> dict[str, Any]:
    """All rows; returns what goes into results.json beside them."""
    kinds: dict[str, Callable[[Bench, str], tuple[dict[str, Any], Tensor]]] = {
        **dict.fromkeys(BASELINES, baseline_row),
        **dict.fromkeys(methods, run_row),
    }
    for name, kind in kinds.items():
        rows.get(name, partial(kind, bench, name))
    return {"wanted": bench.wanted.tolist(), "verdicts": verdicts(rows.rows)}


def main(
    images: Annotated[int, typer.Option(min=2, max=200, help="digits, of i mod 10")] = 50,
    methods: Annotated[str, typer.Option(help="names, with commas")] = ",".join(METHODS),
    judge_steps: Annotated[int, typer.Option(min=1, help="of the judge's training")] = 1200,
    data: Annotated[Path | None, typer.Option(help="folder of MNIST, for the judge")] = None,
    out: Out = None,
    cache: Cache = Path("runs"),
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Run the experiment, or what is left of it, and write results.json, a table and figures."""
    from ctrlgen.experiments.optimal_control.classes_figures import figures, table

    torch.set_num_threads(threads)
    asked = names("method", methods, METHODS)
    folder = cache / "mnist_classes"
    judge, about = load_judge(folder, data, judge_steps, device)
    prior, guide = ctrlgen.load("mnist", device=device), load_classifier(device)
    digits = held_out("mnist")  # of each class in turn, so that the first are of classes i mod 10
    wanted = digits.labels[:images].to(device)
    assert wanted.tolist() == [i % CLASSES for i in range(images)]
    features = embed(guide.features, digits.images[images:].to(device))
    bench = Bench(prior, guide, judge, wanted, digits.images[:images].to(device), features)
    assert prior.card is not None
    key = {"sha256": prior.card.sha256, "images": images, "judge": about["accuracy"]}
    rows = Rows(folder, key)
    found = run(bench, rows, asked)
    out = out or RESULTS / "mnist_classes"
    results = {"prior": "mnist", **key, "judge": about, **found, "rows": rows.rows}
    publish(out, results, table(results))
    figures(results, rows.images, out)


if __name__ == "__main__":
    typer.run(main)
