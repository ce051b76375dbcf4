"""What a run folder costs, and what more processes bring.

    OMP_NUM_THREADS=1 python benchmarks/runs.py [store open memory workers] [--out FILE]

`store`: the same batches of DPS on mnist by the method alone, and as units of a run in a folder:
processor seconds of both, alternating, and what a unit's folder takes of the wall. `open`: a folder
of 10,000 images: its records, its table of numbers and its result read again. `memory`: the peak of
a driver that runs 500 and 4,000 images into a folder, each in a process of its own. `workers`:
the wall of one process and of two, on the same units, start-up apart; it means something on a
machine that does nothing else, so the load is written beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctrlgen
from ctrlgen.costs import SquaredError
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.operators import SuperResolution
from ctrlgen.methods import DPS
from ctrlgen.methods.result import Result
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.runs.executors import Processes
from ctrlgen.runs.job import Job
from ctrlgen.runs.json_files import dumps, write_json
from ctrlgen.runs.runner import Finished, begin, execute
from ctrlgen.runs.store import Store
from ctrlgen.runs.units import Units
from ctrlgen.sampling.grids import Uniform

IMAGE = (3, 32, 32)


def still(x: Tensor, t: Tensor) -> Tensor:
    """A velocity that costs nothing."""
    return torch.zeros_like(x)


def blank(prior: Prior, cost: Any, *, seeds: Any, observer: Any = None) -> Result:
    """Images of noughts."""
    images, zero = torch.zeros(len(seeds), *IMAGE), torch.zeros(len(seeds), dtype=torch.int64)
    counts = [zero.clone() for _ in range(4)]
    return Result(
        images, images.clone(), images[:, 0, 0, 0], zero + 8, torch.tensor(seeds), *counts
    )


@dataclass(frozen=True)
class Cheap:
    """Images that cost nothing, so that the folder is all there is."""

    samples: int
    batch: int = 50

    def job(self) -> Job:
        prior = Prior(Flow(still, CondOT()), Gaussian(IMAGE))
        return Job(prior, None, blank, range(self.samples), self.batch)


@dataclass(frozen=True)
class Steered:
    """Super-resolution of held-out digits."""

    samples: int
    batch: int = 4
    steps: int = 25

    def job(self) -> Job:
        operator = SuperResolution(2)
        y = operator(held_out("mnist", self.samples).images)
        method = DPS(grid=Uniform(self.steps))
        cost = SquaredError(operator, y)
        return Job(ctrlgen.load("mnist"), cost, method, range(self.samples), self.batch)


def store(folder: Path, rounds: int = 5) -> dict[str, Any]:
    """Processor seconds of a job by its method alone and in a folder, medians over the rounds."""
    plan = Steered(16)
    job = plan.job()
    alone, stored, writing = [], [], []
    for turn in range(rounds + 1):
        begun = time.process_time()
        for start in range(0, plan.samples, plan.batch):
            index = torch.arange(start, start + plan.batch)
            job.method(job.prior.take(index), job.cost.take(index), seeds=index)
        alone.append(time.process_time() - begun)
        begun = time.process_time()
        there = begin(job, folder / f"store-{turn}")
        execute(job, there)
        stored.append(time.process_time() - begun)
        shard = next(iter([Units(_work(job, there))(0)]))
        wall = time.perf_counter()
        shard.write(folder / f"store-{turn}")
        writing.append(time.perf_counter() - wall)
    alone, stored = alone[1:], stored[1:]  # the first round warms up
    extra = statistics.median(b - a for a, b in zip(alone, stored, strict=True))
    units = plan.samples // plan.batch
    return {
        "units": units,
        "method_processor_seconds": statistics.median(alone),
        "run_processor_seconds": statistics.median(stored),
        "extra_processor_seconds_per_unit": extra / units,
        "write_wall_seconds_per_unit": statistics.median(writing),
        "share_of_this_job": extra / statistics.median(alone),
        "share_of_5_minutes_for_64_units": 64 * (extra / units + statistics.median(writing)) / 300,
    }  # fmt: skip


def _work(job: Job, there: Store) -> Any:
    from ctrlgen.runs.job import Work

    manifest = there.manifest
    return Work(job, there.key, manifest["unit"], manifest["chunk"], manifest["threads"])


def opened(folder: Path, samples: int = 10_000) -> dict[str, Any]:
    """Seconds to read a folder of many images."""
    job = Cheap(samples).job()
    execute(job, begin(job, folder / "open"))
    there = Store.open(folder / "open")
    looks: dict[str, Any] = {
        "records": lambda: sum(1 for _ in Store.open(folder / "open").records()),
        "summary": there.summary,
        "result": there.result,
    }
    seconds, processor = {}, {}
    for name, look in looks.items():
        begun = time.perf_counter(), time.process_time()
        look()
        seconds[name] = time.perf_counter() - begun[0]
        processor[name] = time.process_time() - begun[1]
    assert there.summary()["samples"] == samples
    size = sum(file.stat().st_size for file in (folder / "open").rglob("*") if file.is_file())
    return {"samples": samples, "units": there.units, "megabytes": size / 1e6,
            "seconds": seconds, "processor_seconds": processor}  # fmt: skip


def memory(folder: Path) -> dict[str, Any]:
    """Peak resident megabytes of a driver beyond those of an idle one, by its samples."""
    peaks = {}
    for samples in (500, 4_000):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            job = Cheap(samples).job()
            execute(job, begin(job, folder / f"memory-{samples}"))
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(writes, str((after - before) / 1024).encode())
            os._exit(0)
        os.waitpid(child, 0)
        peaks[samples] = float(os.read(reads, 64))
    bytes_of_images = {samples: samples * 2 * 4 * 3 * 32 * 32 / 1e6 for samples in peaks}
    return {"peak_megabytes": peaks, "megabytes_of_the_images": bytes_of_images}


def workers(folder: Path, samples: int = 48) -> dict[str, Any]:
    """Samples per second of one process and of two, from the first unit on."""
    rates = {}
    for count in (1, 2):
        plan, times = Steered(samples), list[float]()
        there = begin(plan.job(), folder / f"workers-{count}", Processes(count))

        def noting(event: Any, times: list[float] = times) -> None:
            if isinstance(event, Finished):
                times.append(time.perf_counter())

        execute(plan, there, Processes(count), noting)
        first = times[count - 1]  # all of them have loaded their prior by then
        rates[count] = plan.batch * (len(times) - count) / (times[-1] - first)
    return {"samples": samples, "samples_per_second": rates, "speed_up": rates[2] / rates[1]}


PARTS = {"store": store, "open": opened, "memory": memory, "workers": workers}


def main() -> None:
    """Measure the parts that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for name in options.parts or PARTS:
            load = os.getloadavg()[0]
            results[name] = {"load_before": load, **PARTS[name](Path(place))}  # type: ignore[operator]
            print(dumps({name: results[name]}), flush=True)
    if options.out is not None:
        write_json(options.out, results)


if __name__ == "__main__":
    main()
