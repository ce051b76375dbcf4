"""Ten minutes on an accelerator, used to the second: one command, no installation, no network.

On a machine with one card, in a checkout, with packed training data beside it:

    python benchmarks/accelerator.py --out results --minutes 10 \\
        --data qm9=qm9.safetensors --data cifar10=cifar10.safetensors --data music=music.safetensors

or, for the prior of drug-like molecules and its guide, eight minutes and two:

    python benchmarks/accelerator.py --out results --minutes 10 --only training \\
        --data moses=moses.safetensors

The data are packed beforehand, where they are:

    ctrlgen train molecules/qm9 --data data/qm9 --pack qm9.safetensors
    ctrlgen train images/cifar10 --data data/cifar10 --pack cifar10.safetensors --samples 26000
    ctrlgen train audio/freedoom-music --data data/audio --pack music.safetensors --samples 100
    ctrlgen train molecules/moses-heavy --data data/moses --pack moses.safetensors

In one process and in order of value, each part within its share of the time:

    checks       the tests marked `cuda`
    overhead     of every method over its network evaluations, at batch 256, 16, 1 and 1024
    speed        D-Flow on 256 images and molecules against torch.optim.LBFGS one by one, and the
                 peak memory of direct and checkpointed gradients
    forms        seconds of an evaluation of the plain, half, compiled and graphed network
    throughput   samples a second of training
    training     for the rest of the time: checkpoints, logs, cards and weights in OUT/training

What is known is written at once, to OUT/<part>.json and OUT/summary.json, so a run that is cut off
leaves what it has. A part that raises is recorded with its traceback, and the next one begins.
`--only speed,forms` picks parts, `--networks qm9,moses-heavy` what is trained: such commands side
by side train more on a card that one of them does not fill. `--rehearse` does the same on a CPU
with tiny networks and random data, in two minutes at most:

    python benchmarks/accelerator.py --rehearse

whose summary goes to benchmarks/results/accelerator_rehearsal.json where no --out is given.

Needs torch, numpy, scipy, safetensors, typer, rich, torchdiffeq and pytest; a ctrlgen that is not
installed is found beside this file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the checkout is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve().name != "benchmarks"]

from benchmarks.uninstalled import install

install()

import torch  # noqa: E402

from benchmarks.accelerated import checks, overhead, speed, training  # noqa: E402
from benchmarks.accelerated.session import Part, conduct, machine  # noqa: E402
from benchmarks.accelerated.workbench import REAL, TINY, Workbench  # noqa: E402
from ctrlgen.runs.json_files import write_json  # noqa: E402

__all__ = ["main", "parts_of"]

RESULTS = Path(__file__).parent / "results" / "accelerator_rehearsal.json"
_TESTS = ["tests/cuda", "tests/priors/test_acceleration.py"]
_REHEARSED = ["tests/priors/test_acceleration.py::test_few_shapes_reach_the_network"]
_MINUTES = 2.0  # of a rehearsal


def parts_of(bench: Workbench) -> list[Part]:
    """The parts of a session in order of value, with their shares of the time."""
    tests, marker = (_REHEARSED, "") if bench.tiny else (_TESTS, "cuda")
    return [
        Part("checks", 0.2, partial(checks.run, tests=tests, marker=marker), checks.headline),
        Part("overhead", 0.2, partial(overhead.run, bench), overhead.headline),
        Part("speed", 0.15, partial(speed.run, bench), speed.headline),
        Part("forms", 0.08, partial(overhead.forms, bench)),
        Part("throughput", 0.08, partial(training.throughput, bench), training.headline),
        Part("training", 0.29, partial(training.train, bench), training.headline),
    ]


def _data(given: list[str]) -> dict[str, Path]:
    """Packed files by data set."""
    files = {}
    for entry in given:
        name, _, file = entry.partition("=")
        if name not in training.DATA or not file:
            raise ValueError(f"--data: expected one of {sorted(training.DATA)}=FILE, got {entry!r}")
        if not Path(file).is_file():
            raise ValueError(f"--data: expected a packed file, there is none at {file}")
        files[name] = Path(file).resolve()
    return files


def _device(rehearse: bool) -> torch.device:
    if rehearse:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"device: expected a CUDA device, torch {torch.__version__} sees none; --rehearse does "
            "the same on a CPU, with tiny networks"
        )
    return torch.device("cuda")


def main(arguments: list[str] | None = None) -> int:
    """Run the session; 0 where every part is done, 1 where one failed, 2 for bad options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--minutes", type=float, help="of wall time, for all parts")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--only", default="", metavar="PART,...", help="these parts, in order")
    parser.add_argument("--networks", default="", metavar="NAME,...", help="train these, in order")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    options = parser.parse_args(arguments)
    try:
        device = _device(options.rehearse)
        sizes = TINY if options.rehearse else REAL
        networks = tuple(options.networks.split(",")) if options.networks else ()
        if unknown := sorted(set(networks) - training.SHARES.keys()):
            names = ", ".join(training.SHARES)
            raise ValueError(f"--networks: expected some of {names}, got {', '.join(unknown)}")
        bench = Workbench(device, sizes, options.rehearse, _data(options.data), networks)
        parts, minutes = parts_of(bench), options.minutes
        chosen = options.only.split(",") if options.only else [part.name for part in parts]
        if unknown := sorted(set(chosen) - {part.name for part in parts}):
            names = ", ".join(part.name for part in parts)
            raise ValueError(f"--only: expected some of {names}, got {', '.join(unknown)}")
        if minutes is None and not options.rehearse:
            raise ValueError("--minutes: expected a positive number, got none")
        minutes = _MINUTES if minutes is None else minutes
        if not minutes > 0:
            raise ValueError(f"--minutes: expected a positive number, got {minutes:g}")
        if options.out is None and not options.rehearse:
            raise ValueError("--out: expected a folder, got none")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = options.out or Path(tempfile.mkdtemp(prefix="rehearsal-"))
    about = {"rehearsal": options.rehearse, **machine(device)}
    picked = [part for part in parts if part.name in chosen]
    summary = conduct(picked, out, 60 * minutes, about)
    for name, state in summary["parts"].items():
        print(f"{name}: {state['state']} {state.get('seconds', '')}")
    if options.out is None:
        write_json(RESULTS, summary, indent=1)
    print(RESULTS if options.out is None else out / "summary.json")
    return 0 if all(state["state"] == "done" for state in summary["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
