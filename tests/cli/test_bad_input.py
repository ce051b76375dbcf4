"""Bad input to the command line: one clear line, exit code 2, nothing evaluated or written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from ctrlgen.domains.images import files
from ctrlgen.domains.images.files import write_image
from ctrlgen.domains.images.networks import Velocity

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_evaluated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network is evaluated, and no file appears beside those that the test put there."""

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("the network was evaluated")

    monkeypatch.setattr(Velocity, "forward", refuse)
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def refused(ctrlgen: Run, *words: object) -> str:
    """The message of a command that must fail as a user's error: a single line."""
    outcome = ctrlgen(*words)
    assert outcome.code == 2, (outcome.out, outcome.err)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error ")
    return lines[0].removeprefix("error ")


def inpaint(ctrlgen: Run, file: Path, *words: object) -> str:
    return refused(ctrlgen, "image", "inpaint", file, *words, "--out", "out")


def test_a_missing_file(ctrlgen: Run, grey_card: Path, tmp_path: Path) -> None:
    message = inpaint(ctrlgen, tmp_path / "none.png", "--centre", 4, "--prior", grey_card)
    assert message.startswith("file: there is no file") and "none.png" in message


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    message = inpaint(ctrlgen, tmp_path / "bad.png", "--centre", 4, "--prior", grey_card)
    assert message.startswith("file:") and "bad.png is no image that can be read" in message


def test_a_truncated_file(ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path) -> None:
    whole = grey_file.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    message = inpaint(ctrlgen, tmp_path / "cut.png", "--centre", 4, "--prior", grey_card)
    assert "cut.png is no image that can be read, or is damaged" in message


def test_too_large_an_image_is_not_decoded(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    monkeypatch.setattr(files, "LARGEST", 100 * 100)
    words = (tmp_path / "large.png", "--centre", 4, "--prior", grey_card)
    message = inpaint(ctrlgen, *words)
    assert "expected at most 10000 pixels" in message and "300x200" in message
    # a bomb by Pillow's own measure is refused when it is opened
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too large" in inpaint(ctrlgen, *words)


def test_transparent_pixels(ctrlgen: Run, colour_card: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (12, 12), (255, 0, 0, 100)).save(tmp_path / "glass.png")
    message = inpaint(ctrlgen, tmp_path / "glass.png", "--centre", 4, "--prior", colour_card)
    assert "transparent" in message


def test_no_prior_of_this_size(
    ctrlgen: Run, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    write_image(tmp_path / "odd.png", picture(1, 17))
    message = inpaint(ctrlgen, tmp_path / "odd.png", "--centre", 4)
    assert message.startswith("prior: none supports 17x17 grey images")
    assert "mnist 28x28 grey" in message and "cifar10 32x32 colour" in message


def test_another_size_than_the_named_prior(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    write_image(tmp_path / "odd.png", picture(1, 17))
    words = (tmp_path / "odd.png", "--prior", grey_card)
    message = inpaint(ctrlgen, *words, "--centre", 4)
    assert "takes images of 12x12 grey" in message and "17x17 grey" in message
    message = refused(ctrlgen, "image", "upsample", *words, "--factor", 2)
    assert "takes images of 12x12 grey" in message and "34x34 grey" in message


def test_colour_for_a_grey_prior(ctrlgen: Run, grey_card: Path, colour_file: Path) -> None:
    message = inpaint(ctrlgen, colour_file, "--centre", 4, "--prior", grey_card)
    assert message == "file: expected a grey image, got one in colour"


def test_an_unknown_prior_names_the_known(ctrlgen: Run, grey_file: Path) -> None:
    message = inpaint(ctrlgen, grey_file, "--centre", 4, "--prior", "imagenet")
    assert "prior: 'imagenet' is not known; known are: cifar10, " in message and "mnist" in message
    assert refused(ctrlgen, "image", "sample", "--prior", "imagenet") == message
    message = refused(ctrlgen, "image", "sample", "--prior", "qm9")
    assert message.startswith("prior: expected one of images, qm9 is of molecules")
    # a network that is no prior
    assert "is not known" in refused(ctrlgen, "image", "sample", "--prior", "mnist-classifier")


def test_damaged_cards_and_weights(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    words = (grey_file, "--centre", 4, "--prior")
    card, weights = tmp_path / "tiny1.json", tmp_path / "tiny1.safetensors"
    assert "card" in inpaint(ctrlgen, *words, card)  # none there
    card.write_text("{")
    assert "expected a JSON file" in inpaint(ctrlgen, *words, card)
    content = json.loads(grey_card.read_text())
    card.write_text(json.dumps(content))
    assert "cannot read" in inpaint(ctrlgen, *words, card)
    good = grey_card.with_suffix(".safetensors").read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "expected sha256" in inpaint(ctrlgen, *words, card)
    weights.write_bytes(good)
    for key, value in (("factory", "os:system"), ("path", {"type": "Nowhere"}), ("config", {})):
        card.write_text(json.dumps({**content, key: value}))
        inpaint(ctrlgen, *words, card)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "mask: expected exactly one of --mask, --centre and --random"),
        (("--centre", 4, "--random", 0.5), "mask: expected exactly one of"),
        (("--centre", 13), "centre: expected a side below 12, the image's, got 13"),
        (("--centre", 12), "centre: expected a side below 12, the image's, got 12"),
        (("--random", 1), "random: expected a fraction between 0 and 1, got 1"),
        (("--random", 0), "random: expected a fraction between 0 and 1, got 0"),
        (("--centre", 4, "--device", "meta"), "device: 'meta' is not to be had here"),
        (("--centre", 4, "--device", "foo"), "device: 'foo' is not to be had here"),
        (("--centre", 4, "--prior", "qm9"), "prior: expected one of images, qm9 is of molecules"),
        (("--mask", "none.png"), "mask: there is no file none.png"),
        (("--centre", 4, "--noise", "nan"), "noise: expected a standard deviation"),
        (("--centre", 4, "--noise", -1), "noise: expected a standard deviation"),
        (
            ("--centre", 4, "--init", "lucky"),
            "init: expected one of guided, mean, refined, secants, blend, source",
        ),
        (("--centre", 4, "--label", 4), "label: expected integers from 0 to 3, got [4]"),
        (("--centre", 4, "--seeds", "1,x"), "seeds: expected integers as in 3,5,8"),
        (("--centre", 4, "--seeds", "1,1"), "seeds: expected each once"),
        (("--centre", 4, "--seeds", "-1"), "seeds: expected integers in [0, 2**63), got -1"),
        (("--centre", 4, "--seeds", "1", "-n", 2), "seeds: expected one of"),
        (("--centre", 4, "--device", "abacus"), "device: 'abacus' is not to be had here"),
        (("--centre", 4, "--truth", "none.png"), "truth: there is no file none.png"),
        (("--centre", 4, "--target", "nan"), "target: expected a PSNR in dB"),
        (("--centre", 4, "--method", "magic"), "method: 'magic' is not known; known are: "),
        (("--centre", 4, "--method", "blind-ndtm"), "method: 'blind-ndtm' is not known"),
        (("--centre", 4, "--method", "ddrm", "--iterations", 5), "iterations: ddrm has none; it"),
        (("--centre", 4, "--method", "ndtm", "--target", 30), "target: ndtm has none; it is for"),
        (("--centre", 4, "--method", "dps", "--init", "mean"), "init: dps has none; it is for d-"),
        (
            ("--centre", 4, "--method", "ndtm", "--evaluations", 3),
            "evaluations: expected at least 4 for ndtm, got 3",
        ),
        (("--centre", 4, "--evaluations", 35), "evaluations: expected at least 36 for d-flow"),
    ],
)
def test_options(
    ctrlgen: Run, grey_card: Path, grey_file: Path, words: tuple[object, ...], expected: str
) -> None:
    assert expected in inpaint(ctrlgen, grey_file, "--prior", grey_card, *words)


def test_masks(ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path) -> None:
    def masked(values: np.ndarray) -> str:
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "mask.png")
        words = ("--mask", tmp_path / "mask.png", "--prior", grey_card)
        return inpaint(ctrlgen, grey_file, *words)

    assert "hides everything" in masked(np.full((12, 12), 255))
    assert "hides nothing" in masked(np.zeros((12, 12)))
    half = np.zeros((11, 12))
    half[:5] = 255
    assert "mask: expected (12, 12), the size of the file, got (11, 12)" in masked(half)


def test_truth(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    write_image(tmp_path / "other.png", picture(1, 14))
    words = ("--centre", 4, "--prior", grey_card, "--truth", tmp_path / "other.png")
    assert "truth: expected (1, 12, 12)" in inpaint(ctrlgen, grey_file, *words)
    assert "truth: with --degrade" in inpaint(ctrlgen, grey_file, *words, "--degrade")


def test_a_size_that_the_factor_does_not_divide(
    ctrlgen: Run, grey_card: Path, grey_file: Path
) -> None:
    words = ("image", "upsample", grey_file, "--degrade", "--factor", 5, "--prior", grey_card)
    assert "factor: expected one that divides height and width, got 5" in refused(ctrlgen, *words)


def test_denoising_needs_a_noise_level(ctrlgen: Run, grey_card: Path, grey_file: Path) -> None:
    message = refused(ctrlgen, "image", "denoise", grey_file, "--prior", grey_card)
    assert message.startswith("noise: expected the noise of the file")


def test_blurs(ctrlgen: Run, grey_card: Path, grey_file: Path) -> None:
    words = ("image", "deblur", grey_file, "--prior", grey_card)
    assert "std: expected a positive number" in refused(ctrlgen, *words, "--std", 0)
    assert "boundary: expected one of" in refused(ctrlgen, *words, "--boundary", "mirror")


def test_fit_needs_a_prior(ctrlgen: Run, grey_file: Path) -> None:
    assert "fit: needs --prior" in inpaint(ctrlgen, grey_file, "--centre", 4, "--fit")


def test_what_lies_there_is_not_overwritten(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path
) -> None:
    words = ("image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card, "--out")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    assert "is not empty" in refused(ctrlgen, *words, mine)
    assert "is not replaced" in refused(ctrlgen, *words, mine, "--overwrite")
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert "is a file" in refused(ctrlgen, *words, grey_file)


def test_a_run_that_breaks_keeps_what_is_computed(
    ctrlgen: Run, grey_card: Path, grey_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.domains.images import figures

    def still(x: Tensor, *_: object, **__: object) -> Tensor:
        return 0 * x

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(Velocity, "forward", lambda self, x, t, label=None: still(x))
    monkeypatch.setattr(figures, "restoration_figure", broken)
    out = tmp_path / "kept"
    outcome = ctrlgen(
        "image", "inpaint", grey_file, "--centre", 4, "--prior", grey_card, "--out", out
    )
    assert outcome.code == 2
    assert f"error out: cannot write {out}: no space left on the device" in outcome.err
    assert f"kept: ctrlgen resume {out}" in outcome.err
    assert len(list((out / "shards").iterdir())) == 2 and not (out / "result.json").exists()


def test_a_missing_extra_is_named(
    ctrlgen: Run, grey_card: Path, grey_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    message = inpaint(ctrlgen, grey_file, "--centre", 4, "--prior", grey_card)
    assert message == 'PIL.Image is needed for this: pip install "ctrlgen[images]"'


def test_debugging_shows_the_traceback(
    ctrlgen: Run, grey_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.commands.main import main

    monkeypatch.setenv("CTRLGEN_DEBUG", "1")
    with pytest.raises(ValueError, match="fit: needs --prior"):
        main(["image", "inpaint", str(grey_file), "--centre", "4", "--fit"])


def test_training(ctrlgen: Run, tmp_path: Path) -> None:
    assert "recipe: 'images/imagenet' is not known" in refused(ctrlgen, "train", "images/imagenet")
    assert "budget: expected exactly one" in refused(ctrlgen, "train", "images/mnist")
    words = ("train", "images/mnist", "--steps", 1, "--data", tmp_path / "none")
    assert "data: expected a folder" in refused(ctrlgen, *words)
    (tmp_path / "empty").mkdir()
    words = ("train", "images/mnist", "--steps", 1, "--data", tmp_path / "empty", "--out", "out")
    assert "MNIST: no train-images-idx3-ubyte" in refused(ctrlgen, *words)
    (tmp_path / "empty" / "train-images-idx3-ubyte").write_bytes(b"not an idx file")
    assert "expected an IDX file" in refused(ctrlgen, *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nonsense",), "cost: expected MODULE:NAME or FILE.py:NAME"),
        (("none.py:Cost",), "cost: there is no file none.py"),
        (("no.such.module:Cost",), "names nothing that is installed"),
        (("broken.py:Cost",), "broken.py cannot be imported: ZeroDivisionError"),
        (("costs.py:Absent",), "costs.py has no 'Absent'"),
        (("costs.py:Ink", "--arg", "target"), "arg: expected KEY=VALUE"),
        (("costs.py:Ink",), "Ink(target) does not take {}"),
        (("costs.py:Ink", "--arg", "goal=1"), "Ink(target) does not take {'goal': 1}"),
        (("costs.py:number",), "cost: expected a Cost"),
        (("costs.py:rows", "--samples", 2), "seeds: expected 3"),
    ],
)
def test_checking(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, words: tuple[object, ...], expected: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "costs.py").write_text(
        "import torch\n"
        "from ctrlgen.costs import Cost, Reversed\n"
        "class Ink(Cost):\n"
        "    def __init__(self, target: float): self.target = target\n"
        "    def forward(self, x): return (x.flatten(1).mean(1) - self.target).square()\n"
        "number = 3\n"
        "rows = Reversed(torch.zeros(3, 1, 12, 12))\n"
    )
    assert expected in refused(ctrlgen, "check", *words, "--prior", grey_card)
