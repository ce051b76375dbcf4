"""How far each method's samples are from the posterior, where it is known.

    python benchmarks/calibration.py [--samples 300] [--only NDTM,DPS]

Four problems: a Gaussian and a mixture of two in four dimensions, two of them measured through a
random 2 x 4 matrix with noise 0.5; the same mixture through tanh(Hx) with noise 0.2, where the
posterior is that of weighted draws; a Gaussian in 64 dimensions, 16 of them measured. What is
compared is in `ctrlgen.testing.calibration`; beside it

    seen    variance in the row space of H over the posterior's (1 is right, 0 is one point)
    unseen  variance in the null space of H over the posterior's

Each method runs at a third, at once and at three times the strength of plain settings on another
measurement of the first problem; the variant with the least distance is reported. Methods are built
to find good samples of images, and most of them narrow the law on purpose. A second table has
the method of the least distance for a number of passes through the network. Writes
benchmarks/results/calibration.json and the tables of docs/calibration.md.
"""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from contestants import Build, contestants, posed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ctrlgen.operators import LinearOperator, Matrix, Operator, dense, measure
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import CostError
from ctrlgen.rows.seeds import normal
from ctrlgen.runs.json_files import read_json, write_results
from ctrlgen.testing import Calibration, Mixture, calibrate, posterior
from ctrlgen.testing.calibration import moments
from ctrlgen.testing.ranks import nominal

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "calibration.json"
MARK = "<!-- What follows is written by benchmarks/calibration.py -->"
STRENGTHS = (1.0, 1 / 3, 3.0)
PASSES = (100, 200, 400, 2000)
DRAWS = 9
LEVELS = tuple(nominal(level, DRAWS)[1] for level in (0.5, 0.9))
COLUMNS = (
    "bias", "spread", "distance", "seen", "unseen",
    *(f"in {level:.0%}" for level in LEVELS), "p",
)  # fmt: skip
Row = dict[str, Any]


class Saturated(Operator):
    """y = tanh(Hx)."""

    def __init__(self, matrix: Tensor) -> None:
        self.linear_part = Matrix(matrix)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear_part(x))

    def pinv(self, y: Tensor) -> Tensor:
        """A signal that explains y where it is in the range."""
        return self.linear_part.pinv(torch.atanh(y.clamp(-0.99, 0.99)))


@dataclass(frozen=True)
class Problem:
    """A prior, a measurement and its noise; the measurement's linear part says what is seen."""

    law: Mixture
    operator: Operator
    noise: float

    @property
    def matrix(self) -> Tensor:
        """H."""
        linear = getattr(self.operator, "linear_part", self.operator)
        return dense(linear, self.law.shape)


def problems() -> dict[str, Problem]:
    """By the title of their table."""

    def matrix(rows: int, columns: int) -> Tensor:
        return normal([3], (rows, columns), 9, dtype=torch.float64)[0]

    wide = matrix(16, 64) / 4
    return {
        "Gaussian": Problem(oracle(1, 4), Matrix(matrix(2, 4)), 0.5),
        "mixture of two": Problem(oracle(2, 4), Matrix(matrix(2, 4)), 0.5),
        "mixture of two, measured through tanh": Problem(
            oracle(2, 4), Saturated(matrix(2, 4)), 0.2
        ),
        "Gaussian in 64 dimensions": Problem(oracle(1, 64), Matrix(wide), 0.5),
    }


def oracle(components: int, d: int) -> Mixture:
    """Eigenvalues of the covariances from 0.2 to 1.5; means far enough apart to tell."""
    double = {"dtype": torch.float64}
    bases, _ = torch.linalg.qr(normal(range(components), (d, d), 7, **double))  # type: ignore
    values = torch.linspace(0.2, 1.5, d, **double)  # type: ignore[call-overload]
    means = 1.5 * normal(range(components), (d,), 8, **double)  # type: ignore[arg-type]
    return Mixture(means, (bases * values) @ bases.mT)


def tuned(problem: Problem, build: Build, form: str, samples: int) -> float:
    """The strength with the least distance on a measurement that is not reported."""
    law, operator, noise = problem.law, problem.operator, problem.noise
    y = measure(operator, law.sample([6]), noise, [6])
    exact = posterior(law, operator, y[0], noise)
    cost = posed(form)(operator, y.expand(samples, *y.shape[1:]).contiguous(), noise)
    prior = Prior(law.flow(), Gaussian(law.shape))
    methods = {repr(build(s)): (s, build(s)) for s in reversed(STRENGTHS)}  # one where none counts
    distances = {}
    for text, (_, method) in methods.items():
        x = method(prior, cost, seeds=range(samples)).samples if len(methods) > 1 else None
        close = math.inf if x is None else moments(x, exact).distance
        distances[text] = close if math.isfinite(close) else math.inf
    return methods[min(distances, key=lambda text: distances[text])][0]


def row(report: Calibration, problem: Problem) -> Row:
    """The numbers of one method."""
    exact = report.exact.covariance
    spread = torch.cov(report.samples.flatten(1).mT)
    vt = torch.linalg.svd(problem.matrix, full_matrices=True).Vh
    seen = len(problem.matrix)

    def share(basis: Tensor) -> float:
        return float((basis @ spread @ basis.T).trace() / (basis @ exact @ basis.T).trace())

    return {
        **vars(report.moments),
        "seen": share(vt[:seen]),
        "unseen": share(vt[seen:]),
        **{f"in {level:.0%}": share for level, share in report.ranked.coverage.items()},
        "p": report.p_value,
        "p of": report.ranked.p_values,
        "evaluations": report.evaluations,
        "vjps": report.backward_passes,
        "ended": report.ends,
    }


def solve(
    problem: Problem,
    strengths: dict[str, float],
    chosen: set[str] | None,
    samples: int,
    measurements: int,
) -> dict[str, Row]:
    """All rows of a problem, the posterior's own first; strengths that are not there are tuned."""
    rows: dict[str, Row] = {"the posterior": {}}
    for name, (build, form) in contestants(problem.noise).items():
        if chosen is not None and name not in chosen:
            continue
        begun = time.process_time()
        try:
            if name not in strengths:
                strengths[name] = tuned(problem, build, form, samples // 2)
            report = calibrate(
                build(strengths[name]),
                prior=problem.law,
                operator=problem.operator,
                noise=problem.noise,
                cost=posed(form),
                samples=samples,
                measurements=measurements,
                draws=DRAWS,
            )
        except (CostError, TypeError, ValueError) as error:
            if isinstance(problem.operator, LinearOperator):
                raise
            rows[name] = {"refused": str(error)}
            continue
        rows["the posterior"] = {
            **vars(report.chance),
            **{f"in {level:.0%}": level for level in LEVELS},
        }
        rows[name] = row(report, problem) | {"strength": strengths[name], "method": report.method}
        rows[name]["seconds"] = time.process_time() - begun
        Console(stderr=True).print(f"{name} {rows[name]['seconds']:.1f} s", style="dim")
    return rows


def cheapest(rows: dict[str, Row]) -> dict[int, str]:
    """By a number of forward and backward passes, the method of the least distance within it."""
    best = {}
    for limit in PASSES:
        within = {
            name: row["distance"]
            for name, row in rows.items()
            if "evaluations" in row
            and row["evaluations"] + row["vjps"] <= limit
            and math.isfinite(row["distance"])
        }
        if within:
            name = min(within, key=lambda name: within[name])
            best[limit] = f"{name} {within[name]:.2f}"
    return best


def main(
    samples: Annotated[int, typer.Option(min=10)] = 300,
    measurements: Annotated[int, typer.Option(min=50)] = 50,
    only: Annotated[
        str | None, typer.Option(help="Names, with commas; nothing is written.")
    ] = None,
) -> None:
    """Run the problems that are not there, print tables, write JSON and the page of the docs."""
    torch.set_num_threads(1)
    chosen = None if only is None else {name.strip() for name in only.split(",")}
    setting = {"samples": samples, "measurements": measurements, "torch": torch.__version__}
    tables: dict[str, dict[str, Row]] = {}
    if chosen is None and RESULTS.exists() and read_json(RESULTS).get("setting") == setting:
        tables = read_json(RESULTS)["problems"]
    rows = [item for table in tables.values() for item in table.items()]
    strengths = {name: row["strength"] for name, row in rows if "strength" in row}
    for title, problem in problems().items():
        if title not in tables:
            tables[title] = solve(problem, strengths, chosen, samples, measurements)
        _show(title, tables[title])
        if chosen is None:
            _write(setting, tables)


def _cells(row: Row) -> list[str]:
    """What a table has of a row."""
    if "refused" in row:
        return [row["refused"].split(";")[0].split(", got")[0], *[""] * (len(COLUMNS) + 1)]
    numbers = [row.get(key) for key in COLUMNS]
    texts = [
        "" if v is None else f"{v:.0%}" if "in" in k else f"{v:.2g}" if k == "p" else f"{v:.2f}"
        for k, v in zip(COLUMNS, numbers, strict=True)
    ]
    return [*texts, str(row.get("evaluations", "")), str(row.get("vjps", ""))]


def _show(problem: str, rows: dict[str, Row]) -> None:
    table = Table(title=problem)
    for column in ("method", *COLUMNS, "evaluations", "vjps"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in rows.items():
        table.add_row(name, *_cells(row))
    Console(width=120).print(table)
    Console(width=120).print(cheapest(rows))


def _write(setting: dict[str, Any], tables: dict[str, dict[str, Row]]) -> None:
    content = {
        "setting": setting,
        "machine": platform.platform(),
        "problems": tables,
        "cheapest": {problem: cheapest(rows) for problem, rows in tables.items()},
    }
    write_results(RESULTS, content)
    lines = [
        "## The methods",
        "",
        "`seen` and `unseen` are the samples' variances over the posterior's in what is measured",
        "and in what is not (1 is right, 0 is a single point). Each method runs at the best of",
        "three strengths, chosen on another measurement of the first problem. The first row is",
        "chance: draws of the posterior itself. Most methods narrow the law on purpose. Blind",
        "NDTM, which needs a blur, is not here. `python benchmarks/calibration.py` made it",
        f"({setting['samples']} samples of one measurement, {DRAWS} of each of",
        f"{setting['measurements']}, float64; settings in `benchmarks/results/calibration.json`).",
        "",
        "The least `distance` within a number of passes, forward and backward:",
        "",
        f"| problem | {' | '.join(map(str, PASSES))} |",
        f"|---|{'---|' * len(PASSES)}",
    ]
    for problem, rows in tables.items():
        best = cheapest(rows)
        lines.append(f"| {problem} | {' | '.join(best.get(n, '') for n in PASSES)} |")
    for problem, rows in tables.items():
        lines += ["", f"### {problem[0].upper()}{problem[1:]}", ""]
        lines += [f"| method | {' | '.join(COLUMNS)} | evaluations | vjps |"]
        lines += [f"|---|{'---:|' * (len(COLUMNS) + 2)}"]
        lines += [f"| {name} | {' | '.join(_cells(row))} |" for name, row in rows.items()]
    page = ROOT / "docs" / "calibration.md"
    head, _ = page.read_text().split(MARK)
    page.write_text(f"{head}{MARK}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
