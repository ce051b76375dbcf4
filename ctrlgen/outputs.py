"""Folders of results that are written whole or not at all.

Files are written into a hidden folder beside the one that is wanted, which takes its name when
everything is there. An error, or Ctrl-C, leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_output", "new_folder", "output_folder"]


def check_output(folder: Path, overwrite: bool = False) -> Path:
    """Refuse, before any compute, a folder that cannot be written.

    Args:
        folder: the wanted folder.
        overwrite: whether an existing folder of results may be replaced.

    Raises:
        ValueError: if it is a file, or exists with something in it and `overwrite` is False, or
            holds something else than results of ours.
        OSError: if its parent cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder, {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise ValueError(f"out: {folder} is not empty; name another folder or add --overwrite")
        if not (folder / "result.json").is_file():
            raise ValueError(f"out: {folder} holds no result.json of ours and is not replaced")
    parent = next(p for p in folder.absolute().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"out: cannot write into {parent}")
    return folder


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    partial.chmod(0o755)
    try:
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
