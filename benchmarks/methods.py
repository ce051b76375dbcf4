"""Overhead of every method over its network evaluations, and peers with the same network.

    python benchmarks/methods.py [--prior cifar10] [--samples 16] [--device cpu]

(a) overhead: time of a run (on a CPU, of the processor) over that of its network evaluations alone,
    F forward passes and V backward ones at the raw network's speed on the same batch. x2
    super-resolution with noise 0.05, at some tens of evaluations; no sample stops early. Raw passes
    are timed before and after every run, and the median of the repeats is given.
(b) peers: azula's DPS and PGDM and deepinv's DPS and DDRM, where they are installed, against ours
    with the same network, number of steps and operator, in turns. azula's rules are ours on equal
    levels: with its noise replaced by that of our sample the results of one image are compared, too
    (azula takes one norm over a batch, so that several images come out different there). deepinv
    discretises otherwise; its results are compared by their PSNR.

Prints tables and writes benchmarks/results/methods.json.
"""

from __future__ import annotations

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ctrlgen
from ctrlgen.costs import NegativePSNR
from ctrlgen.costs.problems import InverseProblem
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.metrics import psnr
from ctrlgen.domains.images.operators import Inpainting, SuperResolution
from ctrlgen.methods import DDRM, DPS, AncestralPiGDM, Method
from ctrlgen.methods.tuned import METHODS, Case, build
from ctrlgen.operators.base import LinearOperator, measure
from ctrlgen.priors.paths import VP
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import expand_like
from ctrlgen.runs.json_files import write_json
from ctrlgen.sampling.grids import Uniform
from ctrlgen.sampling.steps import DDIM, step_noise

RESULTS = Path(__file__).parent / "results" / "methods.json"
NOISE, BUDGET, START = 0.05, 24, 0.01


def seconds_of(run: Callable[[], Any], x: Tensor) -> float:
    """Seconds of a call: of the processor, or on a device of the wall with its work included."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    began = clock()
    run()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - began


def raw_passes(prior: Prior, x: Tensor, repeats: int) -> tuple[float, float]:
    """Median seconds of a forward pass without graph, and of one with its backward pass."""
    t = torch.full((len(x),), 0.5, device=x.device)

    def forward() -> None:
        with torch.no_grad():
            prior.flow.network(x, t)

    def both() -> None:
        point = x.clone().requires_grad_()
        torch.autograd.grad(prior.flow.network(point, t).sum(), point)

    ours = [(seconds_of(forward, x), seconds_of(both, x)) for _ in range(repeats)]
    return statistics.median(a for a, _ in ours), statistics.median(b for _, b in ours)


def method_for(name: str, case: Case, budget: int = BUDGET) -> Method:
    """A method at a few evaluations, or what it takes, with a target that no sample reaches."""
    options = {"target": 120.0} if "target" in METHODS[name].options else {}
    for factor in (1, 2, 4, 8, 16):
        try:
            return build(name, case, evaluations=factor * budget, **options)
        except ValueError:  # its least is above that
            continue
    return build(name, case, evaluations=32 * budget, **options)


def overhead_of(
    name: str, prior: Prior, truth: Tensor, repeats: int, budget: int = BUDGET
) -> dict[str, Any]:
    """Time of a method's run over that of its network evaluations alone, on one batch.

    Args:
        name: of the method, a key of `METHODS`.
        prior: whose network is evaluated.
        truth: images (B, C, H, W), the batch.
        repeats: of which the median is taken.
        budget: network evaluations of a run, or as few more as the method takes.
    """
    operator = SuperResolution(2).to(truth.device)
    seeds = range(len(truth))
    problem = InverseProblem.of(operator, truth, NOISE, seeds)
    method = method_for(name, problem.case, budget)
    cost = problem.cost(method)
    ratios, spent = [], []
    method(prior, cost, seeds=seeds)  # warm-up
    for _ in range(repeats):
        before = raw_passes(prior, truth, 3)
        found: list[Any] = []
        run = partial(method, prior, cost, seeds=seeds)
        spent.append(seconds_of(lambda r=run, f=found: f.append(r()), truth))  # type: ignore
        network = found[0].network
        after = raw_passes(prior, truth, 3)
        forward, both = ((a + b) / 2 for a, b in zip(before, after, strict=True))
        f, v = network.forward_rows / len(truth), network.vjp_rows / len(truth)
        ratios.append(spent[-1] / (f * forward + v * (both - forward)))
    return {
        "ratio": statistics.median(ratios), "least": min(ratios), "largest": max(ratios),
        "seconds_per_sample": statistics.median(spent) / len(truth),
        "evaluations": f, "vjps": v, "jvps": network.jvp_rows / len(truth),
        "method": repr(method),
    }  # fmt: skip


def overhead(prior: Prior, truth: Tensor, repeats: int, console: Console) -> dict[str, Any]:
    """Part (a)."""
    rows = {}
    for name in METHODS:
        rows[name] = overhead_of(name, prior, truth, repeats)
        console.print(f"{name}: {rows[name]['ratio']:.3f}", style="dim")
    return rows


# ---------------------------------------------------------------- peers


class AzulaDenoiser:
    """Our flow as azula calls one: data at time 0, `mean` of the datum."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = self.prior.flow.path(1 - t)
        return at.alpha, at.sigma

    def __call__(self, x: Tensor, t: Tensor) -> AzulaDenoiser:
        self.mean = self.prior.predict(x, 1 - t).data
        return self


class DeepinvDenoiser(torch.nn.Module):
    """Our flow as deepinv calls one: images in [0, 1] and the standard deviation of their noise."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        spread = 2 * torch.as_tensor(sigma, dtype=torch.float32, device=u.device).flatten()
        t = (1 / (1 + spread)).expand(len(u)).clamp(1e-3, 1 - 1e-3)
        x = expand_like(t, u) * (2 * u.float() - 1)
        return (self.prior.predict(x, t).data + 1) / 2


@contextmanager
def noise_of(prior: Prior, seed: int) -> Iterator[None]:
    """Inside, torch.randn_like gives the noise of our steps for this seed, one after the other."""
    step = iter(range(10**6))

    def draw(x: Tensor, **_: Any) -> Tensor:
        return step_noise(prior.source, [seed], next(step), x)

    with patch.object(torch, "randn_like", draw):
        yield


def in_turns(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], truth: Tensor, repeats: int
) -> dict[str, float]:
    """Seconds per sample and quality of two contestants, run in turns."""
    ours(), theirs()  # warm-up
    times = [(seconds_of(ours, truth), seconds_of(theirs, truth)) for _ in range(repeats)]
    a, b = (statistics.median(t[i] for t in times) / len(truth) for i in (0, 1))
    quality = [float(psnr(run().clamp(-1, 1), truth).median()) for run in (ours, theirs)]
    return {"ours": a, "theirs": b, "ratio": a / b, "ours_psnr": quality[0], "psnr": quality[1]}


def azula_peers(prior: Prior, truth: Tensor, steps: int, repeats: int) -> dict[str, Any]:
    """Part (b), azula."""
    from azula.guidance.dps import DPSSampler
    from azula.guidance.pgdm import PGDMSampler

    clock, operator = VP(), SuperResolution(2)
    prior = prior.on(clock)
    denoiser: Any = AzulaDenoiser(prior)
    levels = Uniform(steps, START, clean=False)  # azula ends where the path does
    common: dict[str, Any] = {"grid": levels, "clock": clock}
    span = {"start": 1 - START, "stop": 0.0, "steps": steps, "silent": True}
    contests: dict[str, tuple[Method, Callable[[Tensor], Any]]] = {
        "azula DPS": (
            DPS(rho=1.0, rule=DDIM(1.0), **common),
            lambda y: DPSSampler(denoiser, y=y, A=operator, zeta=1.0, **span),
        ),
        "azula PGDM": (
            AncestralPiGDM(start="source", **common),
            lambda y: PGDMSampler(
                denoiser, y=y, A=operator, A_inv=operator.pinv, eta=1.0, **span
            ),
        ),
    }  # fmt: skip
    rows = {}
    for name, (method, peer) in contests.items():

        def ours(images: Tensor, method: Method = method) -> Tensor:
            cost = NegativePSNR(operator, measure(operator, images))
            return method(prior, cost, seeds=range(len(images))).samples

        def theirs(images: Tensor, peer: Callable[[Tensor], Any] = peer) -> Tensor:
            sampler = peer(measure(operator, images))
            return sampler(prior.start(range(len(images))))  # α² + σ² = 1 on this clock

        row: dict[str, Any] = in_turns(lambda: ours(truth), lambda: theirs(truth), truth, repeats)
        one = truth[:1]
        with noise_of(prior, 0):
            same = theirs(one)
        row["one_image_difference"] = float((ours(one) - same).abs().max())
        rows[name] = row
    return rows


def deepinv_peers(prior: Prior, truth: Tensor, steps: int, repeats: int) -> dict[str, Any]:
    """Part (b), deepinv: DPS for x2 super-resolution, DDRM for inpainting (it needs an SVD)."""
    import deepinv as dinv

    shape, device = tuple(truth.shape[1:]), truth.device
    denoiser = DeepinvDenoiser(prior)
    mask = torch.ones(shape, device=device)
    mask[:, 11:21, 11:21] = 0
    hole = Inpainting(mask.bool())
    physics = dinv.physics.Inpainting(
        img_size=shape, mask=mask, device=device,
        noise_model=dinv.physics.GaussianNoise(NOISE / 2),
    )  # fmt: skip
    half = SuperResolution(2)
    reduced = _Reduced(half)
    levels = [10.0 * (0.002 ** (i / (steps - 1))) for i in range(steps)]
    contests: dict[str, tuple[Method, LinearOperator, Callable[[Tensor], Tensor]]] = {
        "deepinv DPS": (
            DPS(rho=1.0, clip=1.0, rule=DDIM(1.0), grid=Uniform(steps, START), clock=VP()),
            half,
            lambda y: dinv.sampling.DPS(
                denoiser, num_steps=steps + 1, device=device, dtype=torch.float32
            )((y + 1) / 2, reduced),
        ),
        "deepinv DDRM": (
            DDRM(grid=Uniform(steps)),
            hole,
            lambda y: dinv.sampling.DDRM(denoiser, sigmas=levels)(
                (y + 1) / 2 * mask, physics
            ),
        ),
    }  # fmt: skip
    rows = {}
    for name, (method, operator, theirs) in contests.items():
        y = measure(operator, truth, NOISE, range(len(truth)))
        cost = NegativePSNR(operator, y, NOISE)
        rows[name] = in_turns(
            lambda m=method, c=cost: m(prior, c, seeds=range(len(truth))).samples,  # type: ignore
            lambda run=theirs, seen=y: 2 * run(seen).float() - 1,  # type: ignore[misc]
            truth,
            repeats,
        )
    return rows


class _Reduced(torch.nn.Module):
    """x2 reduction as a deepinv physics: rows of H sum to one, so that ranges carry over."""

    def __init__(self, operator: SuperResolution) -> None:
        super().__init__()
        self.operator = operator

    def A(self, u: Tensor, **_: Any) -> Tensor:
        return self.operator(u)

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.adjoint(y)

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.pinv(y)

    def forward(self, u: Tensor, **_: Any) -> Tensor:
        return self.A(u)


def main(
    prior: Annotated[str, typer.Option(help="embedded prior")] = "cifar10",
    samples: Annotated[int, typer.Option(min=2, help="images in the batch")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="of the peers' samplers")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="of every timing")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
) -> None:
    """Run both parts and write benchmarks/results/methods.json."""
    torch.set_num_threads(threads)
    console = Console(width=110)
    model = ctrlgen.load(prior, device=device)
    truth = held_out(prior, samples).images.to(device)
    results: dict[str, Any] = {
        "prior": prior, "samples": samples, "steps": steps, "repeats": repeats, "device": device,
        "threads": threads, "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }  # fmt: skip
    peers: dict[str, Any] = {}
    for package, run in (("azula", azula_peers), ("deepinv", deepinv_peers)):
        if importlib.util.find_spec(package) is None:
            peers[package] = {"unavailable": f"{package} is not installed"}
            continue
        with console.status(package):
            peers[package] = run(model, truth, steps, repeats)
    results["peers"] = peers
    results["overhead"] = overhead(model, truth, repeats, console)
    report(console, results)
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, results, named=True, indent=1)


def report(console: Console, results: dict[str, Any]) -> None:
    """Print both tables."""
    table = Table(title="(a) time / network time")
    for column in ("method", "ratio", "least", "largest", "s / sample", "evaluations", "vjps"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in results["overhead"].items():
        table.add_row(
            name, *(f"{row[key]:.3f}" for key in ("ratio", "least", "largest")),
            f"{row['seconds_per_sample']:.3f}", f"{row['evaluations']:g}", f"{row['vjps']:g}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="(b) peers, seconds per sample")
    for column in ("peer", "ours", "theirs", "ratio", "PSNR ours", "theirs", "difference, 1 image"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    for package, rows in results["peers"].items():
        if "unavailable" in rows:
            console.print(f"{package}: {rows['unavailable']}")
            continue
        for name, row in rows.items():
            table.add_row(
                name, *(f"{row[key]:.3f}" for key in ("ours", "theirs", "ratio")),
                *(f"{row[key]:.2f}" for key in ("ours_psnr", "psnr")),
                f"{row['one_image_difference']:.1e}" if "one_image_difference" in row else "",
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
