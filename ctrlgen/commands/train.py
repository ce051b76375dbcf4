"""The recipes of the domains, and the command that trains them.

What a run writes, the folder of weights, card and log and that of its checkpoints, is tried and
held before the data are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from json import loads
from pathlib import Path
from typing import Annotated

import typer

from ctrlgen import plugins
from ctrlgen.commands import console
from ctrlgen.rows.errors import UnknownName
from ctrlgen.runs.outputs import check_inputs, hold

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="DOMAIN/NAME, e.g. images/mnist.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set, or a packed file; fetched when not given."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of weights, card and log.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Budget in minutes, over all resumed parts.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Budget in steps instead; reproducible by seed.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from the checkpoint if there is one.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first; needs a C++ compiler.")
    ] = False,
    resume_from_embedded: Annotated[
        bool, typer.Option(help="Without a checkpoint, go on from the weights of this package.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a card of another training.")
    ] = False,
    pack: Annotated[
        Path | None,
        typer.Option(help="Write the data to this one file, for another machine; do not train."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="With --pack: the first images alone.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the card's path and the validation as JSON.")
    ] = False,
) -> None:
    """Train a prior again, or go on training it.

    [dim]Example:[/]  ctrlgen train images/mnist --data data/mnist --minutes 35

    [dim]Elsewhere:[/]  ctrlgen train molecules/qm9 --pack qm9.safetensors
               ctrlgen train molecules/qm9 --data qm9.safetensors --minutes 10 --device cuda

    Checkpoints are written on the way; the same command with a longer budget goes on from there. A
    card of another training is replaced with --overwrite alone.
    """
    known = {
        f"{domain.name}/{name}": reference
        for domain in plugins.domains().values()
        for name, reference in domain.recipes.items()
    }
    if recipe not in known:
        raise UnknownName("recipe", recipe, known)
    if data is not None and not data.exists():
        raise ValueError(f"data: expected a folder or a packed file, got {data}")
    name = recipe.split("/", 1)[1]
    if pack is not None:
        packer = plugins.resolve(known[recipe].split(":")[0] + ":pack")
        if pack.is_dir():
            raise ValueError(f"pack: expected a file, {pack} is a folder")
        check_inputs([pack], [data])
        with hold(pack):
            file = packer(name, pack, data=data, samples=samples)
        size = file.stat().st_size
        if json:
            print(console.dumps({"packed": file, "bytes": size}))
        else:
            console.say(f"packed: {file} ({size / 1e6:.1f} MB)")
        return
    if samples is not None:
        raise ValueError("samples: they are chosen with --pack alone")
    if (minutes is None) == (steps is None):
        raise ValueError("budget: expected exactly one of --minutes and --steps")
    device = console.device_named(device)
    checkpoints = Path("runs") / recipe.replace("/", "-")
    with _held(checkpoints if out is None else out, checkpoints):
        card = plugins.resolve(known[recipe])(
            name,
            data=data,
            out=out,
            minutes=minutes,
            steps=steps,
            resume=resume,
            seed=seed,
            device=device,
            threads=threads,
            compiled=compiled,
            resume_from_embedded=resume_from_embedded,
            overwrite=overwrite,
        )
    validation = _validation(Path(card))
    if json:
        print(console.dumps({"card": card, "validation": validation}))
        return
    console.say(f"card: {card}")
    if validation is not None:
        console.say(f"validation: {validation:.5f}")


@contextmanager
def _held(*folders: Path) -> Iterator[None]:
    """Folders that are there or can be made, and that no other run writes; of equal ones, one."""
    with ExitStack() as stack:
        for folder in {folder.absolute(): folder for folder in folders}.values():
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"out: expected a folder, {folder} is a file")
            stack.enter_context(hold(folder))
        yield


def _validation(card: Path) -> float | None:
    """The loss on held-out data at the end, from the log beside a card."""
    log = card.with_suffix(".log.jsonl")
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    final = [entry["final"] for entry in map(loads, lines) if "final" in entry]
    return final[-1] if final else None
