"""Places of results: refused before any compute where they cannot be, held, and written whole.

    with reserved(out, "inpaint-photo", inputs=[photo]) as folder:    # before anything is computed
        ...
        with output_folder(folder) as place:                          # appears when it is whole
            write(place / "result.json")

A place that is held has a hidden file beside it, `.NAME.lock` (`ctrlgen.runs.locks`); so of two
runs into one place the second is refused, or takes the next free name where it was not told any.
Some bytes that are written beside it show a disk that is full or read-only.

Results are written into another hidden folder, which takes the place's name when everything is
there. An error leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ctrlgen.priors.documents import read_object
from ctrlgen.runs.locks import Held, acquire, holder, release
from ctrlgen.runs.schema import MANIFEST, RESULT, SHARDS

__all__ = [
    "Held",
    "check_inputs",
    "check_output",
    "check_place",
    "cut_off",
    "hold",
    "hold_new",
    "naming",
    "new_folder",
    "output_folder",
    "reserved",
    "run_folder",
]

_PROBE = 1 << 18
"""Bytes that are written to see whether a disk has room; the smallest result takes some."""


def check_output(folder: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """Refuse, before any compute, a folder that cannot be written.

    Args:
        folder: the wanted folder.
        overwrite: whether an existing folder of results may be replaced.
        inputs: files that the run reads, which must not lie in a folder that it replaces.

    Raises:
        ValueError: if it is a file or a link to nothing, lies below a file, or exists with
            something in it and `overwrite` is False, or holds something else than results of ours
            or an input.
        OSError: if its parent cannot be written.
    """
    check_place(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder, {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            goes_on = f", or go on with it: ctrlgen resume {folder}" if cut_off(folder) else ""
            raise ValueError(
                f"out: {folder} is not empty; name another folder or add --overwrite{goes_on}"
            )
        if not any((folder / name).is_file() for name in (RESULT, MANIFEST)):
            raise ValueError(f"out: {folder} holds no result.json of ours and is not replaced")
        for file in inputs:
            if file.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"out: {folder} holds {file}, which is read; name another folder")
    return folder


def cut_off(folder: Path) -> bool:
    """Whether a folder holds a run that can go on."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return read_object(folder / RESULT, 2**28).get("complete") is not True
    except ValueError:
        return True


def check_inputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse to write over what is read, by whatever name.

    Raises:
        ValueError: if an output is one of the inputs.
    """
    read = [file for file in inputs if file is not None and file.exists()]
    for out in outputs:
        for file in read if out.exists() else ():
            if out.samefile(file):
                raise ValueError(f"out: {out} is {file}, which is read; name another file")


def check_place(path: Path) -> Path:
    """The nearest folder above a path that exists.

    Raises:
        ValueError: if the path is a link to nothing, or lies below a file or such a link.
        OSError: if that folder cannot be written.
    """
    try:
        for part in (path.absolute(), *path.absolute().parents):
            if part.is_symlink() and not part.exists():
                raise ValueError(f"out: {part} is a link to nothing")
        parent = next(p for p in path.absolute().parents if p.exists())
    except OSError as error:  # a loop of links, too long a name, a folder that cannot be entered
        raise _named(error, path) from error
    if not parent.is_dir():
        raise ValueError(f"out: cannot write {path}, {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"out: cannot write {path}: {parent} is not writable")
    return parent


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that say nothing of the place get its name."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> OSError:
    if str(error).startswith("out: "):
        return error
    return type(error)(f"out: cannot write {path}: {error.strerror or error}")


@contextmanager
def hold(path: Path) -> Iterator[Path]:
    """Keep a file or folder for this run; its parents are made, and go again if nothing came.

    Raises:
        Held: if another run has it.
        ValueError: as `check_place`.
        OSError: if nothing can be written there; the message names the place.
    """
    check_place(path)
    folder = path.absolute().parent
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    lock = folder / f".{path.name}.lock"
    try:
        with naming(path), ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            handle = acquire(lock)
            if handle is None:
                raise Held(f"out: another run writes {path}{_whose(lock)}; name another place")
            stack.callback(release, lock, handle)
            _fill(lock.with_name(f"{lock.name}.probe"))
            if path.is_dir():  # it is replaced from beside it, and must itself be ours to replace
                check_place(path / "x")
            rest = stack.pop_all()
        with rest:
            yield path
    finally:
        for parent in made:  # the innermost first; those that others use meanwhile stay
            try:
                parent.rmdir()
            except OSError:
                break


def _whose(lock: Path) -> str:
    who = holder(lock)
    return f" (process {who.get('pid')} on {who.get('host')})" if who else ""


def _fill(file: Path) -> None:
    """Write some bytes and take them back."""
    handle, left = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), _PROBE
    try:
        while left:
            left -= os.write(handle, bytes(left))
    finally:
        os.close(handle)
        file.unlink(missing_ok=True)


@contextmanager
def hold_new(stem: str, root: Path = Path("runs")) -> Iterator[Path]:
    """The first of root/stem, root/stem-2, ... that does not exist and that no other run has."""
    number = 0
    while True:
        number += 1
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        if os.path.lexists(folder):
            continue
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(folder))
            except Held:
                continue
            if not folder.exists():
                yield folder
                return


@contextmanager
def reserved(
    out: Path | None,
    stem: str,
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    root: Path = Path("runs"),
) -> Iterator[Path]:
    """The folder that a run writes, checked and held: the one that is named, or a new one.

    Args:
        out: what the user named, if anything.
        stem: of the name where nothing was named, `root`/`stem`.
        overwrite: as for `check_output`.
        inputs: as for `check_output`.
        root: of new folders.

    Raises:
        ValueError: as `check_output`, or if another run writes there.
        OSError: if nothing can be written there.
    """
    if out is None:
        with hold_new(stem, root) as folder:
            yield folder
        return
    inputs = list(inputs)
    check_output(out, overwrite, inputs)
    with hold(out):
        yield check_output(out, overwrite, inputs)


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """The folder of a run, which is filled as it goes; earlier results there make room.

    If the block ends with an error before a unit was finished, the folder is gone and what was
    there is back.
    """
    aside, empty = None, folder.is_dir()
    with naming(folder):
        if folder.is_dir() and any(folder.iterdir()):
            aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
            os.replace(folder, aside)
    try:
        yield folder
    except BaseException:
        if not any(folder.glob(f"**/{SHARDS}/*.jsonl")) and not (folder / RESULT).exists():
            shutil.rmtree(folder, ignore_errors=True)
            if aside is not None:
                os.replace(aside, folder)
            elif empty:
                folder.mkdir()
        elif aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def new_folder(stem: str, root: Path = Path("runs")) -> Path:
    """The first of root/stem, root/stem-2, root/stem-3, ... that does not exist."""
    folder, number = root / stem, 1
    while folder.exists():
        number += 1
        folder = root / f"{stem}-{number}"
    return folder


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `folder` when the block ends without an error."""
    made = [p for p in (folder.absolute().parent, *folder.absolute().parents[1:]) if not p.exists()]
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o755)
    try:
        with naming(folder):
            yield partial
            aside = partial.with_name(f"{partial.name}.old")
            if folder.exists():
                os.replace(folder, aside)
            os.replace(partial, folder)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:  # the innermost first; those that others use meanwhile stay
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
