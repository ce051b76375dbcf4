"""Data and weights that come in the wheels of published packages, fetched by name.

    wheel("musicnn==0.1.0", "data", sha256="f38a...")     # data/musicnn-0.1.0-py3-none-any.whl

Nothing is installed: pip downloads the one wheel, from whatever index it is set to, and what is
wanted is read out of it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

__all__ = ["needed", "there", "wheel"]


def there(package: str, folder: str | Path, sha256: str | None = None) -> Path | None:
    """The wheel of a package where a folder has it, else None.

    Args:
        package: "name==version".
        folder: where it would be.
        sha256: that its bytes have.

    Raises:
        ValueError: a package without a version, or another file of that name.
    """
    name, _, version = package.partition("==")
    if not version:
        raise ValueError(f"package: expected 'name==version', got {package!r}")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    file = min(Path(folder).glob(pattern), default=None)
    if file is None or sha256 in (None, hashlib.sha256(file.read_bytes()).hexdigest()):
        return file
    raise ValueError(f"{file}: expected {name} {version}, sha256 {sha256}")


def needed(package: str, folder: str | Path, fetch: str, sha256: str | None = None) -> Path:
    """The wheel of a package that a folder must have.

    Args:
        package: "name==version".
        folder: where it would be.
        fetch: dotted name of the function that fetches it, for the error.
        sha256: that its bytes have.

    Raises:
        FileNotFoundError: it is not there; the call that fetches it is named.
        ValueError: as in `there`.
    """
    file = there(package, folder, sha256)
    if file is None:
        raise FileNotFoundError(f"{folder}: no wheel of {package}; call {fetch}({str(folder)!r})")
    return file


def wheel(
    package: str, folder: str | Path, *, sha256: str | None = None, otherwise: str = "that wheel"
) -> Path:
    """The wheel of a package in a folder, downloaded with pip where it is not there yet.

    Args:
        package: "name==version".
        folder: to put it in; made if need be.
        sha256: that its bytes have.
        otherwise: what a user without pip may put there by hand, for the error.

    Raises:
        RuntimeError: pip is missing or cannot download it.
        ValueError: as in `there`.
    """
    folder = Path(folder)
    file = there(package, folder, sha256)
    if file is not None:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "pip", "download", package, "--no-deps", "-q", "-d", str(folder)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    file = None if done.returncode else there(package, folder, sha256)
    if file is None:
        raise RuntimeError(
            f"`pip download {package} --no-deps` failed; download {otherwise} yourself into "
            f"{folder}: {done.stderr.strip()[-400:]}"
        )
    return file
