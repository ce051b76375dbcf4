"""Places of results: what cannot be written is refused first, and two runs never share one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctrlgen.commands import console
from ctrlgen.runs import outputs
from ctrlgen.runs.outputs import Held, check_inputs, hold, hold_new, naming, output_folder, reserved


def hidden(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".")]


@pytest.mark.parametrize("place", ["file/sub", "file/deep/sub", "link", "link/sub", "loop/sub"])
def test_places_that_cannot_be_are_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (
        pytest.raises((ValueError, OSError), match=r"^out: .*(file|link)"),
        reserved(tmp_path / place, "x"),
    ):
        raise AssertionError
    assert (tmp_path / "file").read_text() == "mine" and not hidden(tmp_path)


@pytest.mark.parametrize("name", ["/proc/nothing", "/proc/1/nothing", "a" * 300])
def test_the_system_refuses_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, reserved(tmp_path / name, "x"):
        raise AssertionError
    assert str(caught.value).startswith("out: cannot write") and name in str(caught.value)
    assert "[Errno" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_found_first(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(outputs.os, "write", full)
    with pytest.raises(OSError) as caught, reserved(tmp_path / "new" / "out", "x"):
        raise AssertionError
    expected = f"out: cannot write {tmp_path / 'new' / 'out'}: {os.strerror(number)}"
    assert str(caught.value) == expected
    assert not list(tmp_path.iterdir())


def test_errors_of_writing_name_the_place(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"^out: cannot write .*out: No space"),
        naming(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match=r"^out: cannot write .*out: No space"),
        output_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_two_runs_into_one_place(tmp_path: Path) -> None:
    with hold(tmp_path / "out"):
        with pytest.raises(Held, match="another run writes"), reserved(tmp_path / "out", "x"):
            raise AssertionError
        with hold(tmp_path / "other"):
            pass
    with reserved(tmp_path / "out", "x") as folder:
        assert folder == tmp_path / "out"
    assert not list(tmp_path.iterdir())


def test_two_runs_without_a_name_take_two(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    root = tmp_path / "runs"
    with hold_new("a", root) as first, hold_new("a", root) as second:
        assert (first, second) == (root / "a-2", root / "a-3")
        with output_folder(second) as place:
            (place / "x").write_text("2")
        with output_folder(first) as place:
            (place / "x").write_text("1")
    assert (first / "x").read_text() == "1" and (second / "x").read_text() == "2"
    assert not hidden(tmp_path)


def test_a_place_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom ctrlgen.runs.outputs import hold\n"
        "with hold(Path(sys.argv[1])): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")])
    assert done.returncode == 9 and hidden(tmp_path)  # killed: its lock file is left, its lock not
    with hold(tmp_path / "out"):
        pass
    assert not hidden(tmp_path)


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x.sdf").write_text("mine")
    (tmp_path / "same.sdf").symlink_to(tmp_path / "x.sdf")
    check_inputs([tmp_path / "y.sdf"], [tmp_path / "x.sdf", None])
    with pytest.raises(ValueError, match="which is read"):
        check_inputs([tmp_path / "y.sdf", tmp_path / "same.sdf"], [tmp_path / "x.sdf"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    (tmp_path / "out" / "photo.png").write_text("mine")
    with (
        pytest.raises(ValueError, match="which is read"),
        reserved(tmp_path / "out", "x", overwrite=True, inputs=[tmp_path / "out" / "photo.png"]),
    ):
        raise AssertionError


def test_errors_of_the_system_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(OSError(errno.ENOSPC, "No space left on device"))
    console.fail(OSError(errno.ENOENT, "No such file or directory", "[red]x[/red]"))
    console.say("[red]x[/red]")
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "error No space left on device",
        "error [red]x[/red]: No such file or directory",
    ]
    assert out == "[red]x[/red]\n"
