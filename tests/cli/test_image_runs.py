"""Image runs that are doubted, cut off, large, or no numbers: what is said and what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.images import figures, restored
from ctrlgen.domains.images.files import read_image, write_image
from ctrlgen.domains.images.networks import Velocity
from ctrlgen.domains.images.operators import GaussianBlur
from ctrlgen.runs.interrupts import Terminated

Run = Callable[..., Any]


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def words(grey_card: Path, grey_file: Path, tmp_path: Path) -> tuple[object, ...]:
    """An inpainting of four samples in batches of two."""
    return (
        "image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card, "-n", 4,
        "--batch", 2, "--method", "ddrm", "--out", tmp_path / "out",
    )  # fmt: skip


def breaking(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int = 2) -> None:
    """The method raises at its call of this number."""
    from ctrlgen.methods import DDRM

    calls, call = [], DDRM.__call__

    def broken(self: DDRM, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise error
        return call(self, *args, **options)

    monkeypatch.setattr(DDRM, "__call__", broken)


def test_batches_change_nothing(ctrlgen: Run, words: tuple[object, ...], tmp_path: Path) -> None:
    assert ctrlgen(*words).code == 0
    whole = [tmp_path / "whole" if word == tmp_path / "out" else word for word in words]
    assert ctrlgen(*(64 if word == 2 else word for word in whole)).code == 0
    first, second = written(tmp_path / "out"), written(tmp_path / "whole")
    assert first["samples"] == second["samples"] and first["history"] == second["history"]
    assert first["complete"] and first["missing"] == []
    assert first["summary"]["samples"] == 4
    assert (
        first["summary"]["network"]["forward_rows"] == second["summary"]["network"]["forward_rows"]
    )


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_what_is_finished_is_kept_and_said(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: BaseException, code: int,
) -> None:  # fmt: skip
    breaking(monkeypatch, error)
    outcome = ctrlgen(*words)
    assert outcome.code == code
    assert f"2 of 4 reconstructions are in {tmp_path / 'out'}" in outcome.err
    content = written(tmp_path / "out")
    assert not content["complete"] and content["missing"] == [2, 3]
    assert [row["seed"] for row in content["samples"]] == [0, 1]
    there = {"figure.png", "measurement.png", "result.json"}
    there |= {"reconstruction-0.png", "reconstruction-1.png"}
    there |= {"manifest.json", "manifest.backup.json", "shards", "tensors.safetensors"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == there
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert f"ctrlgen report {tmp_path / 'out'} shows them" in outcome.err
    report = json.loads(ctrlgen("report", tmp_path / "out", "--json").out)
    assert [section["samples"] for section in report["sections"]] == [2]


def test_a_run_that_was_cut_off_goes_on(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ctrlgen resume` ends as the uninterrupted command does, by another process if need be."""
    whole = [tmp_path / "whole" if word == tmp_path / "out" else word for word in words]
    assert ctrlgen(*whole).code == 0
    with monkeypatch.context() as patch:
        breaking(patch, KeyboardInterrupt())
        outcome = ctrlgen(*words)
    assert f"ctrlgen resume {tmp_path / 'out'} goes on" in outcome.err
    refused = ctrlgen(*words)
    assert refused.code == 2 and f"go on with it: ctrlgen resume {tmp_path / 'out'}" in refused.err
    monkeypatch.chdir(tmp_path.parent)
    outcome = ctrlgen("resume", tmp_path / "out", "--workers", 1)
    assert outcome.code == 0, outcome.err
    assert outcome.out.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    first, second = written(tmp_path / "out"), written(tmp_path / "whole")
    for name in ("samples", "history", "summary", "complete", "missing", "method"):
        assert first[name] == second[name], name
    for seed in range(4):
        files = [tmp_path / place / f"reconstruction-{seed}.png" for place in ("out", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert ctrlgen("resume", tmp_path / "out").code == 0  # nothing is missing
    assert "holds no run" in ctrlgen("resume", tmp_path).err


def test_another_file_is_another_run(
    ctrlgen: Run, words: tuple[object, ...], grey_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        breaking(patch, KeyboardInterrupt())
        ctrlgen(*words)
    write_image(grey_file, torch.zeros(1, 12, 12))
    outcome = ctrlgen("resume", tmp_path / "out")
    assert outcome.code == 2 and f"files.{grey_file.name}" in outcome.err
    grey_file.unlink()
    assert "which is gone" in ctrlgen("resume", tmp_path / "out").err


def test_shares_of_a_job_array(ctrlgen: Run, words: tuple[object, ...], tmp_path: Path) -> None:
    whole = [tmp_path / "whole" if word == tmp_path / "out" else word for word in words]
    assert ctrlgen(*whole).code == 0
    outcome = ctrlgen(*words, "--shard", "2/2")
    assert outcome.code == 0 and "2 of 4 reconstructions" in outcome.out
    assert not (tmp_path / "out" / "result.json").exists()
    assert "unit: 2 there, 1 now" in ctrlgen(
        *(1 if word == 2 else word for word in words), "--shard", "1/2"
    ).err  # fmt: skip
    outcome = ctrlgen(*words, "--shard", "1/2", "--json-lines", "--json")
    *lines, content = outcome.out.split("\n", 2)
    assert [json.loads(line)["event"] for line in lines] == ["begun", "finished"]
    assert json.loads(lines[1])["records"][0]["id"] == 0
    assert json.loads(content)["samples"] == written(tmp_path / "whole")["samples"]
    assert "needs --out" in ctrlgen(*words[:-2], "--shard", "1/2").err
    assert "shard: expected I/N" in ctrlgen(*words[:-1], tmp_path / "x", "--shard", "two").err


def test_a_unit_of_automatic_size(ctrlgen: Run, grey_card: Path, tmp_path: Path) -> None:
    """On the CPU at most 64 samples; a folder keeps it, and resumes with it."""
    words = ("image", "sample", "--prior", grey_card, "--steps", 1, "-n", 70)
    outcome = ctrlgen(*words, "--batch", "auto", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["unit"] == 64 and len(list((tmp_path / "out" / "shards").glob("*.jsonl"))) == 2
    (tmp_path / "out" / "shards" / "000001.jsonl").unlink()
    assert ctrlgen("resume", tmp_path / "out").code == 0
    assert written(tmp_path / "out")["complete"]
    assert "batch: expected a number above 0 or auto" in ctrlgen(*words, "--batch", "most").err


def test_a_cluster_computes_the_same(ctrlgen: Run, grey_card: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the ray package is not installed")
    words = ("image", "sample", "--prior", grey_card, "--steps", 1, "-n", 4, "--batch", 2, "--out")
    assert ctrlgen(*words, tmp_path / "here").code == 0
    outcome = ctrlgen(*words, tmp_path / "there", "--ray", "--workers", 1)
    assert outcome.code == 0, outcome.err
    for seed in range(4):
        files = [tmp_path / place / f"sample-{seed}.png" for place in ("here", "there")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sample_that_raises_leaves_the_others(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.methods import DDRM

    call = DDRM.__call__

    def broken(self: DDRM, *args: Any, seeds: Any, **options: Any) -> Any:
        if 2 in list(seeds):
            raise RuntimeError("not this one")
        return call(self, *args, seeds=seeds, **options)

    monkeypatch.setattr(DDRM, "__call__", broken)
    outcome = ctrlgen(*words)
    assert outcome.code == 0
    assert "1 of 4 failed: an error was raised: RuntimeError: not this one" in outcome.err
    rows = written(tmp_path / "out")["samples"]
    assert [row["file"] is None for row in rows] == [False, False, True, False]


def test_with_nothing_finished_nothing_is_left(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, KeyboardInterrupt(), 1)
    outcome = ctrlgen(*words)
    assert outcome.code == 130 and "interrupted; nothing was written" in outcome.err
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_partial_result_is_written(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception may carry what a method had when it came."""
    from ctrlgen.methods import DDRM

    call = DDRM.__call__

    def broken(self: DDRM, *args: Any, **options: Any) -> Any:
        stop = KeyboardInterrupt()
        stop.partial = call(self, *args, **options)  # type: ignore[attr-defined]
        raise stop

    monkeypatch.setattr(DDRM, "__call__", broken)
    assert ctrlgen(*words).code == 130
    content = written(tmp_path / "out")
    assert [row["seed"] for row in content["samples"]] == [0, 1] and not content["complete"]


def test_sigterm_ends_a_command_as_ctrl_c_does(grey_card: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from ctrlgen.runs.unsteered import Unsteered\n"
        "call, count = Unsteered.__call__, []\n"
        "def spy(self, *parts, **options):\n"
        "    count.append(1)\n"
        "    if len(count) == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return call(self, *parts, **options)\n"
        "Unsteered.__call__ = spy\n"
        "from ctrlgen.commands.main import main\n"
        "main(sys.argv[1:])\n"
    )
    words = ["image", "sample", "--prior", grey_card, "-n", 6, "--steps", 1, "--batch", 2, "-o"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words), str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    content = written(tmp_path / "out")
    assert content["seeds"] == [0, 1, 2, 3] and content["missing"] == [4, 5]
    assert not content["complete"]


def test_a_network_that_is_no_number_is_an_error_with_its_step(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Velocity.forward

    def singular(self: Velocity, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        value = forward(self, x, t, label)
        late = (t > 0.6) & (x[:, 0, 0, 0] > 0)  # some samples, from step 7 of 10 on
        return torch.where(late[:, None, None, None], torch.nan, value)

    monkeypatch.setattr(Velocity, "forward", singular)
    out = tmp_path / "out"
    words = ("image", "sample", "--prior", grey_card, "-n", 6, "--steps", 10, "-o", out)
    outcome = ctrlgen(*words)
    assert outcome.code == 2
    content = written(out)
    assert content["lost"] and all(item["step"] == 7 for item in content["lost"])
    assert "prior: its network gives what is no number from step 7 of 10" in outcome.err
    lost = {item["seed"] for item in content["lost"]}
    assert lost | set(content["seeds"]) == set(range(6)) and set(content["missing"]) == lost
    for seed in range(6):
        assert (out / f"sample-{seed}.png").exists() == (seed not in lost)
    monkeypatch.setattr(Velocity, "forward", lambda self, x, t, label=None: x * torch.nan)
    outcome = ctrlgen(*(word if word != out else tmp_path / "none" for word in words))
    assert outcome.code == 2 and "from step 1 of 10" in outcome.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("std", [1.0, 1.5])
def test_a_photo_that_was_never_blurred_is_doubted(
    ctrlgen: Run, request: pytest.FixtureRequest, channels: int, std: float, tmp_path: Path
) -> None:
    from ctrlgen.domains.images.data import held_out

    prior = "mnist" if channels == 1 else "cifar10"
    sharp = held_out(prior, 2).images[1]
    blurred = GaussianBlur(std, boundary="reflect")(sharp[None])[0]
    for image, doubted in ((sharp, True), (blurred, False)):
        write_image(tmp_path / "photo.png", image)
        outcome = ctrlgen(
            "image", "deblur", tmp_path / "photo.png", "--std", std, "--prior", prior, "--method",
            "ddrm", "--evaluations", 2, "--out", tmp_path / f"out-{doubted}", "--json",
        )  # fmt: skip
        assert outcome.code == 0
        assert ("Was it blurred at all?" in outcome.err) == doubted
        assert bool(json.loads(outcome.out)["warnings"]) == doubted


def test_a_target_that_asks_for_nothing_is_questioned(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    words = ("image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card)
    for target, doubted in ((-40, True), (5, True), (30, False)):
        out = tmp_path / f"out{target}"
        outcome = ctrlgen(*words, "--target", target, "--iterations", 1, "--out", out)
        assert outcome.code == 0
        assert (f"target: {target} dB" in outcome.err) == doubted
    # with much noise a low target is right
    words = ("image", "denoise", grey_file, "--noise", 0.5, "--degrade", "--prior", grey_card)
    assert "target" not in ctrlgen(*words, "--target", 12, "--out", tmp_path / "n").err


def test_a_residual_beyond_the_noise_is_said(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    words = ("image", "denoise", grey_file, "--noise", 0.01, "--prior", grey_card, "--out")
    poor = ctrlgen(*words, tmp_path / "a", "--method", "dps", "--evaluations", 2)
    assert "times the noise that was stated" in poor.err
    assert "times the noise" not in ctrlgen(*words, tmp_path / "b").err


def test_two_runs_into_one_folder(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.runs.outputs import hold

    with hold(tmp_path / "out"):  # another run
        outcome = ctrlgen(*words)
    assert outcome.code == 2 and "out: another run writes" in outcome.err
    monkeypatch.chdir(tmp_path)
    with hold(Path("runs/inpaint-grey")):
        outcome = ctrlgen(*words[:-2])
    assert outcome.code == 0 and "runs/inpaint-grey-2/figure.png" in outcome.out


@pytest.mark.parametrize("place", ["file/sub", "link", "/proc/nothing"])
def test_places_that_cannot_be_written_are_found_before_any_compute(
    ctrlgen: Run, words: tuple[object, ...], grey_card: Path, tmp_path: Path, place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(Velocity, "forward", lambda *_, **__: pytest.fail("evaluated"))
    out = tmp_path / place
    for command in (words[:-1], ("image", "sample", "--prior", grey_card, "-o"), ("demo", "--out")):
        outcome = ctrlgen(*command, out)
        assert outcome.code == 2 and outcome.err.startswith("error out: "), outcome.err
        assert "[Errno" not in outcome.err and len(outcome.err.splitlines()) == 1


def test_names_are_never_markup(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ctrlgen(*words[:-1], "[red]x[/red]")
    assert outcome.code == 0, outcome.err
    assert outcome.out.rstrip().endswith("[red]x[/red]/report.html")
    outcome = ctrlgen(*words[:-1], "[red]x[/red]")
    assert outcome.err == (
        "error out: [red]x[/red] is not empty; name another folder or add --overwrite\n"
    )


def test_a_curve_ends_where_the_table_does(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Any] = []
    draw = figures.curves
    monkeypatch.setattr(
        figures, "curves", lambda axes, made, *rest: lines.extend(made) or draw(axes, made, *rest)
    )
    for method in ("freedom", "dps", "d-flow"):
        lines.clear()
        changed = [method if word == "ddrm" else word for word in words]
        out = tmp_path / method
        content = json.loads(ctrlgen(*changed[:-1], out, "--json", "--evaluations", 40).out)
        for sample, (x, y, _) in zip(content["samples"], lines, strict=True):
            assert y[-1] == pytest.approx(sample["measurement_psnr"], abs=1e-4)
            assert x == sorted(set(x))


def test_many_samples_are_written_as_they_come(
    ctrlgen: Run, words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restored, "SHOWN", 3)
    monkeypatch.setattr(restored, "_HISTORIES", 4)
    changed = [40 if word == 4 and i > 6 else word for i, word in enumerate(words)]
    outcome = ctrlgen(*changed, "--json")
    content = json.loads(outcome.out)
    assert len(content["samples"]) == 40 and len(content["history"]["evaluations"]) == 4
    for row in content["samples"]:
        assert read_image(tmp_path / "out" / row["file"]).shape == (1, 12, 12)


def test_a_photo_larger_than_the_prior_is_restored_by_tiles(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    write_image(tmp_path / "large.png", picture(1, 24)[:, :20])
    words = ("image", "denoise", tmp_path / "large.png", "--noise", 0.3, "--degrade", "--prior")
    words = (*words, grey_card, "--method", "ddrm", "-n", 2)
    assert "takes images of 12x12" in ctrlgen(*words, "--out", tmp_path / "out").err
    outcome = ctrlgen(*words, "--tile", "--overlap", 4, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    assert len(content["tiles"]) == 6 and "on 6 tiles" in content["method"]
    assert (tmp_path / "out" / "figure.png").exists()
    for row in content["samples"]:
        assert read_image(tmp_path / "out" / row["file"]).shape == (1, 20, 24)
        assert row["psnr"] > content["pseudo_inverse"]["psnr"]
    for options, message in (
        (("--overlap", 4), "overlap: it is that of tiles"),
        (("--tile", "--overlap", 12), "overlap: expected 0 to 11"),
        (("--tile", "--fit"), "tile: needs --prior"),
    ):
        assert message in ctrlgen(*words, *options, "--out", tmp_path / "bad").err
    blur = ("image", "deblur", *words[2:3], "--prior", grey_card, "--tile", "--out", tmp_path / "b")
    assert "tile: GaussianBlur looks far beyond" in ctrlgen(*blur).err


def test_tiles_that_are_cut_off_leave_whole_photos(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, picture: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from ctrlgen.commands.console import SampleProgress

    write_image(tmp_path / "large.png", picture(1, 24)[:, :20])
    watched, watch = [], SampleProgress.__call__

    def interrupted(self: SampleProgress, event: Any) -> None:
        watch(self, event)
        watched.append(event)
        if len(watched) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SampleProgress, "__call__", interrupted)
    outcome = ctrlgen(
        "image", "denoise", tmp_path / "large.png", "--noise", 0.002, "--degrade", "--tile",
        "--prior", grey_card, "--method", "dps", "-n", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert outcome.code == 130
    assert f"interrupted; 2 of 2 reconstructions are in {tmp_path / 'out'}" in outcome.err
    content = written(tmp_path / "out")
    assert not content["complete"] and content["missing"] == []
    for row in content["samples"]:
        assert row["status"] == "running"
        assert read_image(tmp_path / "out" / row["file"]).shape == (1, 20, 24)


@pytest.mark.parametrize(
    ("prior", "task", "options", "expected"),
    [
        ("mnist", "inpaint", {}, None),
        ("cifar10", "upsample", {}, None),
        ("tiny1", "inpaint", {}, ("d-flow", None)),
        ("mnist", "inpaint", {"target": 40.0}, ("d-flow", None)),
        ("mnist", "deblur", {"compare": "pseudo-inverse"}, ("d-flow", None)),
        ("mnist", "deblur", {"method": "dps"}, ("dps", None)),
    ],
)
def test_the_default_method_is_the_best_of_the_matrix(
    prior: str, task: str, options: dict[str, Any], expected: tuple[str, int | None] | None
) -> None:
    from types import SimpleNamespace

    from ctrlgen.domains.images.commands import method_of
    from ctrlgen.domains.images.defaults import default_for
    from ctrlgen.domains.images.options import Options

    compare = options.pop("compare", "measurement")
    card = SimpleNamespace(name=prior)
    problem = SimpleNamespace(prior=SimpleNamespace(card=card), task=task, compare=compare)
    assert method_of(Options(**options), problem) == (expected or default_for(prior, task))


def test_the_table_of_defaults_is_derived_from_the_committed_results() -> None:
    from ctrlgen.domains.images import defaults
    from ctrlgen.experiments.methods.image_defaults import derive
    from ctrlgen.methods.tuned import METHODS

    table = defaults._table()
    assert table == json.loads(json.dumps(derive()))
    for prior in ("mnist", "cifar10"):
        assert set(table["priors"][prior]["tasks"]) == {"inpaint", "upsample", "deblur", "denoise"}
        for task in table["priors"][prior]["tasks"]:
            assert defaults.default_for(prior, task).method in METHODS
