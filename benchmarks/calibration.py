"""How far each method's samples are from the posterior, where the posterior is known.

    python benchmarks/calibration.py [--samples 1000] [--only NDTM,DPS]

The prior is a Gaussian, then a mixture of two, in four dimensions; two of them are measured through
a random 2 x 4 matrix with noise 0.5. All samples share the measurement, so their law should be the
posterior, a Gaussian (mixture) in closed form. Per method:

    bias    root mean square of S^{-1/2}(mean − posterior mean), in posterior standard deviations
    seen    variance in the row space of H over the posterior's (1 is right, 0 is one point)
    unseen  variance in the null space of H over the posterior's
    cost    mean of ‖Hx − y‖²/(mσ²) (the posterior's own is the first row)

The first row draws from the posterior itself: what is left there is chance. Methods run at plain
settings, not tuned to this problem; they are built to find good samples of images, and most of them
narrow the law on purpose. Writes benchmarks/results/calibration.json and docs/calibration.md.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ctrlgen import methods as m
from ctrlgen.costs import Cost, SquaredError
from ctrlgen.methods.regularizers import GaussianNLL
from ctrlgen.operators import Matrix, dense, measure
from ctrlgen.optimizers import LBFGS, Adam
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.seeds import normal
from ctrlgen.runs.json_files import write_json
from ctrlgen.sampling.grids import DDPMUniform, Karras, Uniform
from ctrlgen.solvers import Midpoint
from ctrlgen.testing.oracles import Mixture

ROOT = Path(__file__).parents[1]
D, M, NOISE = 4, 2, 0.5
MARK = "<!-- What follows is written by benchmarks/calibration.py -->"
Row = dict[str, Any]


def oracle(components: int) -> Mixture:
    """Eigenvalues of the covariances from 0.2 to 1.5; means far enough apart to tell."""
    double = {"dtype": torch.float64}
    bases, _ = torch.linalg.qr(normal(range(components), (D, D), 7, **double))  # type: ignore
    values = torch.linspace(0.2, 1.5, D, **double)  # type: ignore[call-overload]
    means = 1.5 * normal(range(components), (D,), 8, **double)  # type: ignore[arg-type]
    return Mixture(means, (bases * values) @ bases.mT)


def contestants(likelihood: Cost, squared: Cost) -> dict[str, tuple[m.Method, Cost]]:
    """Each method with the cost that its paper has: −log p(y|x), or the squared error."""
    double: dict[str, Any] = {"dtype": torch.float64}
    hundred = {"grid": DDPMUniform(100), **double}
    fine = {"grid": Uniform(100, 0.01), **double}
    control = {"grid": DDPMUniform(50), "iterations": 5, **double}
    adam = Adam(learning_rate=0.05)
    short = Adam(learning_rate=0.05, max_iterations=60)
    return {
        "ClassifierGuidance": (m.ClassifierGuidance(**hundred), likelihood),
        "TFG": (m.TFG(rho=0.02, mu=0.01, **hundred), likelihood),
        "DPS": (m.DPS(rho=0.1, **hundred), squared),
        "LGDMC": (m.LGDMC(rho=0.03, draws=4, **hundred), likelihood),
        "FreeDoM": (m.FreeDoM(rho=0.03, **hundred), likelihood),
        "MPGD": (m.MPGD(mu=0.1, **hundred), squared),
        "UGD": (m.UGD(rho=0.02, mu=0.005, **hundred), likelihood),
        "DDRM": (m.DDRM(**hundred), squared),
        "PiGDM": (m.PiGDM(weighting="posterior", weight=1.0, **fine), squared),
        "AncestralPiGDM": (m.AncestralPiGDM(**hundred), squared),
        "CPiGDM": (m.CPiGDM(weight=8.0, decay=0.0, **fine), squared),
        "OTODE": (m.OTODE(**fine), squared),
        "CPiGFM": (m.CPiGFM(weight=20.0, **fine), squared),
        "NDTM": (m.NDTM(terminal_weight=1.0, optimizer=adam, **control), likelihood),
        "CTDTM": (
            m.CTDTM(terminal_weight=1.0, optimizer=Adam(learning_rate=0.3), **control),
            likelihood,
        ),
        "CTDTM, exact": (  # ‖Hx − y‖²/2σ² is −log p(y|x)
            m.CTDTM(mode="linear", exact=True, terminal_weight=0.5 / NOISE**2, **hundred),
            squared,
        ),
        "FTM": (m.FTM(terminal_weight=1.0, optimizer=adam, **control), likelihood),
        "REDDiff": (m.REDDiff(**hundred), squared),
        "PnPFlow": (m.PnPFlow(grid=Uniform(50), scale=0.1, **double), squared),
        "FlowPriors": (
            m.FlowPriors(grid=Uniform(50, 1e-3), weight=1.0, optimizer=adam, **double),
            squared,
        ),
        "DAPS": (
            m.DAPS(grid=Karras(30, 0.1, 20.0), rate=0.02, noise=None, langevin_steps=30, **double),
            squared,
        ),
        "DFlow": (
            m.DFlow(solver=Midpoint(6), optimizer=LBFGS(max_iterations=15), **double),
            likelihood,
        ),
        "DFlow, prior": (
            m.DFlow(
                solver=Midpoint(6),
                optimizer=LBFGS(max_iterations=15),
                regularizer=GaussianNLL(1.0),
                **double,
            ),
            likelihood,
        ),
        "OptimalControl": (
            m.OptimalControl(grid=Uniform(10), iterations=3, penalty=1.0, **double),
            likelihood,
        ),
        "FlowGrad": (
            m.FlowGrad(grid=Uniform(10), optimizer=short, **double),
            likelihood,
        ),
        "OCFlow": (
            m.OCFlow(grid=Uniform(10), optimizer=short, penalty=1.0, **double),
            likelihood,
        ),
        "DMPlug": (m.DMPlug(grid=Uniform(3), optimizer=short, **double), squared),
    }


def compare(samples: Tensor, posterior: Mixture, matrix: Tensor, cost: Tensor) -> Row:
    """The numbers of one method."""
    exact, mean = posterior.covariance, posterior.mean
    values, vectors = torch.linalg.eigh(exact)
    offset = (samples.mean(0) - mean) @ vectors / values.sqrt()
    spread = torch.cov(samples.T)
    _, _, vt = torch.linalg.svd(matrix, full_matrices=True)

    def share(basis: Tensor) -> float:
        return float((basis @ spread @ basis.T).trace() / (basis @ exact @ basis.T).trace())

    return {
        "bias": float(offset.square().mean().sqrt()),
        "seen": share(vt[:M]),
        "unseen": share(vt[M:]),
        "cost": float(cost.mean()),
    }


def main(
    samples: Annotated[int, typer.Option(min=10)] = 1000,
    only: Annotated[str | None, typer.Option(help="Names, with commas.")] = None,
) -> None:
    """Run, print tables, write JSON and the page of the documentation."""
    torch.set_num_threads(1)
    chosen = None if only is None else {name.strip() for name in only.split(",")}
    seeds = list(range(samples))
    tables: dict[str, dict[str, Row]] = {}
    for problem, components in (("Gaussian", 1), ("mixture of two", 2)):
        law = oracle(components)
        prior = Prior(law.flow(), Gaussian((D,)))
        operator = Matrix(normal([3], (M, D), 9, dtype=torch.float64)[0])
        truth = law.sample([5])
        y = measure(operator, truth, NOISE, [5]).expand(samples, M).contiguous()
        squared = SquaredError(operator, y, NOISE)
        matrix = dense(operator, (D,))
        posterior = law.posterior(matrix, y[0], NOISE)
        scale = M * NOISE**2
        drawn = posterior.sample(seeds)
        rows = {"the posterior": compare(drawn, posterior, matrix, squared(drawn) / scale)}
        for name, (method, cost) in contestants((0.5 / NOISE**2) * squared, squared).items():
            if chosen is not None and name not in chosen:
                continue
            begun = time.process_time()
            result = method(prior, cost, seeds=seeds)
            row = compare(result.samples, posterior, matrix, squared(result.samples) / scale)
            row |= {"evaluations": result.network.forward, "vjps": result.network.vjp}
            row |= {"ended": result.counts(), "seconds": time.process_time() - begun}
            rows[name] = row | {"method": result.method}
            Console(stderr=True).print(f"{problem}: {name} {row['seconds']:.1f} s", style="dim")
        tables[problem] = rows
        _show(problem, rows)
    if chosen is None:
        _write(samples, tables)


def _show(problem: str, rows: dict[str, Row]) -> None:
    table = Table(title=problem)
    for column in ("method", "bias", "seen", "unseen", "cost", "evaluations", "vjps"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in rows.items():
        numbers = [f"{row[key]:.3f}" for key in ("bias", "seen", "unseen", "cost")]
        table.add_row(name, *numbers, *(str(row.get(key, "")) for key in ("evaluations", "vjps")))
    Console(width=100).print(table)


def _write(samples: int, tables: dict[str, dict[str, Row]]) -> None:
    machine = {"platform": platform.platform(), "torch": torch.__version__}
    content = {"samples": samples, "machine": machine, "problems": tables}
    file = ROOT / "benchmarks" / "results" / "calibration.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, dict(sorted(content.items())), named=True, indent=1)
    lines = [
        "How far the samples of each method are from the posterior where it is known: four",
        "dimensions, two of them measured with noise 0.5, all samples sharing one measurement.",
        "`bias` is the error of the mean in posterior standard deviations; `seen` and `unseen` are",
        "the samples' variances over the posterior's in what the measurement sees and does not see",
        "(1 is right, 0 is a single point); `cost` is the mean squared residual over the noise's",
        "variance. The first row draws from the posterior itself. Plain settings, not tuned; most",
        "methods narrow the law on purpose. Blind NDTM, which needs a blur, is not here. Made by",
        f"`python benchmarks/calibration.py` ({samples} samples, float64; settings in",
        "`benchmarks/results/calibration.json`).",
    ]
    for problem, rows in tables.items():
        lines += ["", f"## {problem[0].upper()}{problem[1:]}", ""]
        lines += ["| method | bias | seen | unseen | cost | evaluations | vjps |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|"]
        for name, row in rows.items():
            numbers = " | ".join(f"{row[key]:.2f}" for key in ("bias", "seen", "unseen", "cost"))
            spent = f"{row.get('evaluations', '')} | {row.get('vjps', '')}"
            lines.append(f"| {name} | {numbers} | {spent} |")
    page = ROOT / "docs" / "calibration.md"
    head, _ = page.read_text().split(MARK)
    page.write_text(f"{head}{MARK}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
