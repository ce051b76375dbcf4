"""`ctrlgen image`: what the commands solve, and what they leave behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ctrlgen.domains.images.files import ROUNDING, read_image, write_image
from ctrlgen.domains.images.metrics import psnr, ssim
from ctrlgen.domains.images.operators import GaussianBlur, Inpainting, SuperResolution
from ctrlgen.operators.base import measure

Run = Callable[..., Any]


def solved(ctrlgen: Run, *words: object) -> dict[str, Any]:
    """The JSON of a command that must succeed, after comparing it with the one on disk."""
    outcome = ctrlgen(*words, "--json")
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    on_disk = json.loads((Path(content["folder"]) / "result.json").read_text())
    assert {k: v for k, v in content.items() if k != "folder"} == on_disk
    return content


def test_inpaint_fills_what_the_mask_shows_and_keeps_the_rest(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    white = torch.full((1, 12, 12), -1.0)
    white[:, 3:7, 2:9] = 1
    write_image(tmp_path / "mask.png", white)
    spoiled = read_image(grey_file)
    spoiled[:, 3:7, 2:9] = 1  # nothing there may be looked at
    write_image(tmp_path / "spoiled.png", spoiled)
    out = tmp_path / "out"
    content = solved(
        ctrlgen, "image", "inpaint", tmp_path / "spoiled.png", "--mask", tmp_path / "mask.png",
        "--prior", grey_card, "--truth", grey_file, "--samples", 2, "--out", out,
    )  # fmt: skip
    known = white[0] < 0
    truth = read_image(grey_file)
    for sample in content["samples"]:
        assert sample["status"] == "reached its target"
        assert sample["measurement_psnr"] >= content["target_psnr"] == 45
        filled = read_image(out / sample["file"])
        # what was kept is met to the target, up to the rounding of the file
        error = (filled - truth)[:, known].square().mean().sqrt()
        assert error < 2 * 10 ** (-45 / 20) + 2 * ROUNDING
        assert sample["psnr"] == pytest.approx(float(psnr(filled[None], truth[None])), abs=0.3)
    names = {"figure.png", "measurement.png", "report.html", "result.json"}
    names |= {"manifest.json", "manifest.backup.json", "shards", "tensors.safetensors"}
    names |= {"reconstruction-0.png", "reconstruction-1.png"}
    assert {file.name for file in out.iterdir()} == names
    hidden = truth.clone()
    hidden[:, ~known] = 0
    expected = float(psnr(hidden[None], truth[None]))
    assert content["pseudo_inverse"]["psnr"] == pytest.approx(expected, abs=1e-3)
    first, second = (read_image(out / s["file"])[:, ~known] for s in content["samples"])
    assert (first - second).abs().mean() > 0.05  # two samples, two fillings


def test_degrade_makes_the_measurement_from_the_file(
    ctrlgen: Run, colour_card: Path, colour_file: Path, tmp_path: Path
) -> None:
    content = solved(
        ctrlgen, "image", "deblur", colour_file, "--std", 0.8, "--degrade", "--noise", 0.1,
        "--prior", colour_card, "--out", tmp_path / "out",
    )  # fmt: skip
    truth = read_image(colour_file)[None]
    operator = GaussianBlur(0.8, boundary="reflect")
    y = measure(operator, truth, 0.1, [0])
    plain = operator.pinv(y)
    assert content["pseudo_inverse"]["psnr"] == pytest.approx(float(psnr(plain, truth)), abs=1e-3)
    assert content["pseudo_inverse"]["ssim"] == pytest.approx(float(ssim(plain, truth)), abs=1e-4)
    shown = read_image(tmp_path / "out" / "measurement.png")
    assert (shown - y[0].clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6
    assert content["rounding"] == 0 and content["noise"] == 0.1
    assert content["target_psnr"] == pytest.approx(20 * math.log10(2 / 0.1))


def test_deblur_can_compare_pseudo_inverses(
    ctrlgen: Run, colour_card: Path, colour_file: Path, tmp_path: Path
) -> None:
    """−PSNR of H†Hx against H†y; its target is where H† leaves the noise."""
    content = solved(
        ctrlgen, "image", "deblur", colour_file, "--std", 0.8, "--degrade", "--noise", 0.05,
        "--compare", "pseudo-inverse", "--iterations", 2, "--prior", colour_card,
        "--out", tmp_path / "out",
    )  # fmt: skip
    truth = read_image(colour_file)[None]
    operator = GaussianBlur(0.8, boundary="reflect")
    noise = torch.randn(4096, *truth.shape[1:], generator=torch.Generator().manual_seed(0))
    raised = float(operator.pinv(noise).square().mean().sqrt())
    assert raised > 1.5
    goal = 20 * math.log10(2 / (0.05 * raised))
    assert content["compare"] == "pseudo-inverse"
    assert content["target_psnr"] == pytest.approx(goal, abs=0.1)
    refused = ctrlgen(
        "image", "deblur", colour_file, "--degrade", "--compare", "pseudo-inverse", "--method",
        "ndtm", "--prior", colour_card, "--out", tmp_path / "no",
    )  # fmt: skip
    assert refused.code != 0 and "compare: 'pseudo-inverse' is for d-flow" in refused.err


def test_upsample_takes_the_small_image(
    ctrlgen: Run, grey_card: Path, picture: Callable[..., Tensor], tmp_path: Path
) -> None:
    small = SuperResolution(2)(picture(1)[None])
    write_image(tmp_path / "small.png", small[0])
    content = solved(
        ctrlgen, "image", "upsample", tmp_path / "small.png", "--prior", grey_card, "--target", 40,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert content["settings"] == {"factor": 2} and content["target_psnr"] == 40
    large = read_image(tmp_path / "out" / "reconstruction-0.png")
    assert large.shape == (1, 12, 12)
    again = SuperResolution(2)(large[None])
    assert float(psnr(again, read_image(tmp_path / "small.png")[None])) > 36


def test_denoise_stops_at_the_noise(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    content = solved(
        ctrlgen, "image", "denoise", grey_file, "--degrade", "--noise", 0.3, "--prior", grey_card,
        "--seeds", "4,9", "--init", "source", "--out", tmp_path / "out",
    )  # fmt: skip
    assert [s["seed"] for s in content["samples"]] == [4, 9]
    assert content["target_psnr"] == pytest.approx(20 * math.log10(2 / 0.3))
    assert "Chi(0.01)" in content["method"] and "SourceSample" in content["method"]


def test_the_options_change_the_run(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    base = ("image", "inpaint", grey_file, "--degrade", "--prior", grey_card)

    def first(*options: object) -> dict[str, Any]:
        name = f"run-{len(list(tmp_path.glob('run-*')))}"
        return solved(ctrlgen, *base, *options, "--out", tmp_path / name)

    centre = first("--centre", 6)
    assert "GuidedStart" in centre["method"]
    assert "Blend" in first("--centre", 6, "--init", "blend")["method"]
    random = first("--random", 0.7)
    assert random["pseudo_inverse"]["psnr"] != centre["pseudo_inverse"]["psnr"]
    short = first("--centre", 6, "--iterations", 0, "--init", "source")
    assert short["samples"][0]["status"] == "stopped: iteration budget spent"
    # the same words, the same numbers; another seed, another sample
    again = first("--centre", 6)
    for key in ("samples", "history", "pseudo_inverse"):
        assert again[key] == centre[key]
    assert first("--centre", 6, "--seeds", 1)["samples"] != centre["samples"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("inpaint", "--centre", 4, "--method", "ddrm"), "DDRM"),
        (("upsample", "--method", "NDTM", "--evaluations", 24), "NDTM"),
        (("deblur", "--method", "c-pigfm", "--noise", 0.05), "CPiGFM"),
        (("denoise", "--method", "Red-Diff", "--noise", 0.2, "--evaluations", 15), "REDDiff"),
        (("inpaint", "--random", 0.5, "--method", "dmplug", "--iterations", 3), "DMPlug"),
    ],
)
def test_every_command_takes_a_method(
    ctrlgen: Run,
    grey_card: Path,
    grey_file: Path,
    tmp_path: Path,
    words: tuple[Any, ...],
    name: str,
) -> None:
    task, *options = words
    content = solved(
        ctrlgen, "image", task, grey_file, "--degrade", *options, "--prior", grey_card, "-n", 2,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert content["method"].startswith(f"{name}(")
    assert (content["target_psnr"] is None) == (name != "DMPlug")
    if "--evaluations" in options:
        budget = options[options.index("--evaluations") + 1]
        assert content["summary"]["network"]["forward"] == budget
    history = content["history"]["measurement_psnr"]
    for sample, course in zip(content["samples"], history, strict=True):
        # dB, whatever the form of the cost; the last of its course is that of the sample
        assert 5 < sample["measurement_psnr"] < 127
        if name != "DMPlug":
            assert sample["status"] == "finished: all steps taken"
            assert course[-1] == pytest.approx(sample["measurement_psnr"])
    assert (tmp_path / "out" / "figure.png").stat().st_size > 0


def test_the_measurement_psnr_of_any_method_is_that_of_its_images(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    content = solved(
        ctrlgen, "image", "upsample", grey_file, "--degrade", "--method", "ftm", "--prior",
        grey_card, "--evaluations", 12, "--out", out,
    )  # fmt: skip
    y = SuperResolution(2)(read_image(grey_file)[None])
    again = SuperResolution(2)(read_image(out / "reconstruction-0.png")[None])
    expected = content["samples"][0]["measurement_psnr"]
    assert float(psnr(again, y)) == pytest.approx(expected, abs=0.5)


def test_a_label_reaches_the_network(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.domains.images.networks import Velocity

    seen = []
    forward = Velocity.forward

    def spying(self: Velocity, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        seen.append(label)
        return forward(self, x, t, label)

    monkeypatch.setattr(Velocity, "forward", spying)
    words = ("image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card, "-n", 2)
    solved(ctrlgen, *words, "--label", 2, "--out", tmp_path / "with")
    assert seen and all(label is not None and set(label.tolist()) == {2} for label in seen)
    seen.clear()
    solved(ctrlgen, *words, "--out", tmp_path / "without")
    assert seen and all(label is None for label in seen)


def test_fit_crops_and_resamples(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    write_image(tmp_path / "large.png", picture(1, 40))
    content = solved(
        ctrlgen, "image", "inpaint", tmp_path / "large.png", "--fit", "--prior", grey_card,
        "--centre", 4, "--out", tmp_path / "out",
    )  # fmt: skip
    assert read_image(tmp_path / "out" / content["samples"][0]["file"]).shape == (1, 12, 12)


def test_grey_and_colour_files_meet_either_prior(
    ctrlgen: Run, grey_card: Path, colour_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "rgb.png", read_image(grey_file).expand(3, -1, -1))
    for i, (file, card) in enumerate([(tmp_path / "rgb.png", grey_card), (grey_file, colour_card)]):
        out = tmp_path / f"out{i}"
        solved(ctrlgen, "image", "inpaint", file, "--centre", 4, "--prior", card, "--out", out)
        assert read_image(out / "reconstruction-0.png").shape[0] == (1 if i == 0 else 3)


def test_the_figure_is_a_picture_and_the_table_names_it(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card)
    for folder in ("inpaint-grey", "inpaint-grey-2"):
        outcome = ctrlgen(*words)
        assert outcome.code == 0, outcome.err
        assert f"runs/{folder}/figure.png" in outcome.out
        assert outcome.out.rstrip().endswith(f"runs/{folder}/report.html")
        with Image.open(tmp_path / "runs" / folder / "figure.png") as figure:
            assert min(figure.size) > 500


def test_sample_draws_what_the_prior_draws(ctrlgen: Run, colour_card: Path, tmp_path: Path) -> None:
    import ctrlgen as package
    from ctrlgen.solvers import Midpoint

    content = solved(
        ctrlgen, "image", "sample", "--prior", colour_card, "-n", 5, "--first-seed", 7,
        "--steps", 3,
        "--batch", 2, "--label", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert content["seeds"] == [7, 8, 9, 10, 11]
    assert content["network"]["forward_rows"] == 5 * 3 * 2
    prior = package.load(colour_card).bind(label=[1] * 5)
    expected = prior.sample(range(7, 12), Midpoint(3)).clamp(-1, 1)
    for seed, image in zip(content["seeds"], expected, strict=True):
        drawn = read_image(tmp_path / "out" / f"sample-{seed}.png")
        assert (drawn - image).abs().max() <= 1 / 255 + 1e-5


def test_inpainting_shows_the_mask_that_it_used(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    solved(
        ctrlgen, "image", "inpaint", grey_file, "--random", 0.5, "--prior", grey_card, "-n", 3,
        "--out", tmp_path / "out",
    )  # fmt: skip
    mask = Inpainting.random(0.5, (1, 12, 12), [0]).mask[0]
    shown = read_image(tmp_path / "out" / "measurement.png")
    assert (shown[~mask].abs() < 1.01 / 255).all()
    assert torch.equal(shown[mask], read_image(grey_file)[mask])
