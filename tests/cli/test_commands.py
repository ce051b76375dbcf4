"""`ctrlgen priors | methods | check | train | demo` and how domains plug in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from ctrlgen import __version__, plugins
from ctrlgen.commands import main as cli
from ctrlgen.commands.options import argument
from ctrlgen.plugins import Domain

Run = Callable[..., Any]

COSTS = """
from ctrlgen.costs import Cost

class Ink(Cost):
    def __init__(self, target: float, name: str = "ink"):
        self.target, self.name = target, name
    def forward(self, x):
        return (x.flatten(1).mean(1) - self.target).square()
    def __repr__(self):
        return self.name

def bad(x):
    return x.mean()
"""


def test_help_lists_the_commands_and_teaches(ctrlgen: Run) -> None:
    outcome = ctrlgen("--help")
    assert outcome.code == 0
    for command in ("demo", "priors", "methods", "train", "check", "image"):
        assert command in outcome.out
    for command in ("inpaint", "upsample", "deblur", "denoise", "sample"):
        text = ctrlgen("image", command, "--help").out
        assert f"ctrlgen image {command}" in text  # an example
    assert ctrlgen("train", "--help").out.count("ctrlgen train images/mnist") == 1
    assert ctrlgen("--version").out == f"ctrlgen {__version__}\n"


def test_wrong_words_are_a_usage_error(ctrlgen: Run) -> None:
    for words in (("imagine",), ("image", "inpaint"), ("image", "sample"), ("priors", "--all")):
        outcome = ctrlgen(*words)
        assert outcome.code == 2 and "Traceback" not in outcome.err


def test_priors_lists_the_embedded_ones(ctrlgen: Run) -> None:
    cards = json.loads(ctrlgen("priors", "--json").out)
    assert set(cards) >= {"mnist", "cifar10", "qm9-heavy"}
    assert cards["mnist"]["source"]["shape"] == [1, 28, 28] and cards["mnist"]["sha256"]
    text = ctrlgen("priors").out
    for word in ("mnist", "cifar10", "1×28×28", "label (10 classes)", "MIT", "MB"):
        assert word in text


def test_methods_says_what_they_control_and_need(ctrlgen: Run) -> None:
    from ctrlgen.methods.source.dflow import PRESETS

    (dflow,) = (m for m in json.loads(ctrlgen("methods", "--json").out) if m["name"] == "DFlow")
    assert dflow["presets"] == sorted(PRESETS)
    assert dflow["summary"] and dflow["control"] and dflow["needs"]
    assert "DFlow" in ctrlgen("methods").out
    text = ctrlgen("methods", "FreeDoM").out
    assert "recur_within" in text and "(0.2, 0.5)" in text and "face-sketch" in text
    one = json.loads(ctrlgen("methods", "d-flow", "--json").out)
    assert {"solver", "target"} <= {p["name"] for p in one["parameters"]}
    assert one["family"] == "source point" and one["method"] == "d-flow"
    assert "method: 'magic' is not known" in ctrlgen("methods", "magic").err


def test_check_tells_a_sound_cost_from_a_broken_one(
    ctrlgen: Run, grey_card: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(COSTS)
    words = ("check", f"{tmp_path / 'mine.py'}:Ink", "--prior", grey_card, "--samples", 2)
    report = ctrlgen(*words, "--arg", "target=-0.2", "--arg", "name=wet ink", "--json")
    content = json.loads(report.out)
    assert report.code == 0 and content["passed"] and content["cost"] == "wet ink"
    assert content["samples"] == 2 and content["prior"] == "tiny1"
    shown = ctrlgen(*words, "--arg", "target=-0.2")
    assert shown.code == 0 and "keeps its promises" in shown.out and "‖gradient‖" in shown.out
    broken = ctrlgen("check", f"{tmp_path / 'mine.py'}:bad", "--prior", grey_card)
    assert broken.code == 1 and "breaks a promise" in broken.out
    assert "reduce over every dimension but the first" in broken.out


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("False", False), ("none", None), ("'true'", "true"), ("1", 1), ("a", "a")],
)
def test_the_words_of_arguments(word: str, value: object) -> None:
    key, given = argument(f"flag={word}")
    assert key == "flag" and given == value and type(given) is type(value)


def test_a_file_that_ends_the_program_is_an_error(
    ctrlgen: Run, grey_card: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    outcome = ctrlgen("check", f"{tmp_path / 'script.py'}:Cost", "--prior", grey_card)
    assert outcome.code == 2 and "script.py cannot be imported: SystemExit" in outcome.err


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ctrlgen", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"ctrlgen {__version__}\n")


def test_check_finds_modules_in_the_working_directory(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_costs_beside_me.py").write_text(COSTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ("check", "my_costs_beside_me:Ink", "--arg", "target=0.1", "--prior", grey_card)
    assert ctrlgen(*words).code == 0


def test_train_hands_its_options_to_the_recipe(
    ctrlgen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.domains.images import training

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(
        training, "train", lambda *args, **options: calls.append((args, options)) or "card.json"
    )
    outcome = ctrlgen(
        "train", "images/cifar10", "--data", tmp_path, "--steps", 7, "--no-resume", "--seed", 3,
        "--out", tmp_path / "w", "--threads", 2, "--compile", "--resume-from-embedded",
        "--overwrite",
    )  # fmt: skip
    assert outcome.code == 0 and "card.json" in outcome.out
    ((args, options),) = calls
    assert args == ("cifar10",)
    assert options == {
        "data": tmp_path,
        "out": tmp_path / "w",
        "minutes": None,
        "steps": 7,
        "resume": False,
        "seed": 3,
        "device": "cpu",
        "threads": 2,
        "compiled": True,
        "resume_from_embedded": True,
        "overwrite": True,
    }


def test_train_holds_its_folders_and_says_what_it_measured(
    ctrlgen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.domains.images import training
    from ctrlgen.runs.outputs import Held, hold

    out = tmp_path / "w"
    monkeypatch.chdir(tmp_path)

    def train(name: str, **_: Any) -> Path:
        for place in (out, Path("runs") / "images-mnist"):
            with pytest.raises(Held), hold(place):
                pass
        out.mkdir()
        (out / "mnist.log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 3, "final": 0.25}\n')
        return out / "mnist.json"

    monkeypatch.setattr(training, "train", train)
    words = ("train", "images/mnist", "--steps", 3, "--out", out)
    outcome = ctrlgen(*words, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {"card": str(out / "mnist.json"), "validation": 0.25}
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained"))
    for place in (out, Path("runs") / "images-mnist"):
        with hold(place):
            assert "another run writes" in ctrlgen(*words).err


def test_train_packs_data_instead_of_training(
    ctrlgen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.domains.images import training
    from ctrlgen.domains.images.data import Images, read

    images = Images(torch.rand(6, 1, 28, 28) * 2 - 1, torch.arange(6))
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    file = tmp_path / "mnist.safetensors"
    words = ("train", "images/mnist", "--data", tmp_path, "--pack", file, "--samples", 4)
    outcome = ctrlgen(*words)
    assert outcome.code == 0 and "packed:" in outcome.out
    pixels, labels = read("mnist", file)
    torch.testing.assert_close(pixels, images.images[:4], rtol=0, atol=0.51 / 127.5)
    assert labels.tolist() == [0, 1, 2, 3]
    words = ("train", "images/mnist", "--data", tmp_path, "--samples", 4, "--steps", 1)
    assert ctrlgen(*words).code == 2


def test_every_recipe_and_command_of_a_domain_exists() -> None:
    for domain in plugins.domains().values():
        references = [*domain.recipes.values(), domain.app, domain.demo]
        for reference in references:
            assert reference is None or plugins.resolve(reference) is not None
    from ctrlgen.domains.images.training import RECIPES

    assert set(plugins.domains()["images"].recipes) == set(RECIPES)


def test_a_third_partys_domain_plugs_in(
    ctrlgen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = typer.Typer()

    @sounds.command()
    def hum() -> None:
        print("mmm")

    @sounds.command()
    def whistle() -> None:
        raise ValueError("pitch: expected a number of Hz")

    module = type(sys)("third_party_sounds")
    module.app = sounds  # type: ignore[attr-defined]
    module.demo = lambda out, **_: print(f"demo into {out}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party_sounds", module)
    domain = Domain(
        "sounds", tmp_path, "sound", "third_party_sounds:app", demo="third_party_sounds:demo"
    )
    monkeypatch.setattr(plugins, "domains", lambda: {"sounds": domain})
    monkeypatch.setattr(cli.app, "registered_groups", list(cli.app.registered_groups))
    assert ctrlgen("sound", "hum").out == "mmm\n"
    assert ctrlgen("sound", "whistle").err == "error pitch: expected a number of Hz\n"
    assert ctrlgen("demo", "--out", tmp_path / "d").out == f"demo into {tmp_path / 'd'}\n"


def test_the_command_is_light() -> None:
    """Neither `import ctrlgen` nor the help of a command loads what only some tasks need."""
    heavy = ["PIL", "matplotlib", "diffusers", "scipy", "torchmetrics", "azula", "torchdiffeq"]
    code = (
        "import sys\n"
        "from ctrlgen.commands.main import main\n"
        "try: main(['image', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "inpaint" in done.stdout and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("card.json", "{here}/card.json"),
        ("./card.json", "{here}/card.json"),
        ("./mine.py:score", "{here}/mine.py:score"),
        ("sub/mine.py:score", "{here}/sub/mine.py:score"),
        ("mnist", "mnist"),
        ("package.module:score", "package.module:score"),
    ],
)
def test_the_options_of_a_plan_name_files_from_any_folder(
    value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.commands.run_options import absolute

    monkeypatch.chdir(tmp_path)
    assert absolute(value) == expected.format(here=tmp_path)
    assert absolute(Path(value)) == tmp_path / value
