"""`--trust`: a card's own code runs from the working folder, and only where the user says so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctrlgen import plugins
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian

Run = Callable[..., Any]

LAYERS = (
    "import torch\nclass Net(torch.nn.Conv2d):\n    def forward(self, x, t, **_): return 0 * x\n"
)
NETS = (
    "import pathlib\nfrom layers_of_mine import Net\n"
    'pathlib.Path(__file__).with_name("imported").touch()\n'
    "def build(channels): return Net(channels, channels, 1)\n"
)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A card whose network is built by a module beside it, which imports another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "layers_of_mine.py").write_text(LAYERS)
    network = plugins.resolve("nets_of_mine:build", beside=True)(1)
    prior = Prior(Flow(network, CondOT()), Gaussian((1, 6, 6)))
    file = prior.save(
        tmp_path, "mine", factory="nets_of_mine:build", config={"channels": 1}, domain="images"
    )
    forget()
    yield file
    forget()


def forget() -> None:
    for name in ("nets_of_mine", "layers_of_mine"):
        sys.modules.pop(name, None)
    Path("imported").unlink(missing_ok=True)


def sample(ctrlgen: Run, card: Path, *words: str) -> Any:
    return ctrlgen("image", "sample", "--prior", card, "-n", 1, "--steps", 1, "--out", "o", *words)


def test_own_modules_run_under_trust_alone(ctrlgen: Run, card: Path) -> None:
    refused = sample(ctrlgen, card)
    assert refused.code == 2 and "--trust nets_of_mine" in refused.err
    assert not Path("imported").exists() and "nets_of_mine" not in sys.modules
    assert sample(ctrlgen, card, "--trust", "another", "--overwrite").code == 2
    assert not Path("imported").exists()
    assert sample(ctrlgen, card, "--trust", "another", "--trust", "nets_of_mine").code == 0
    assert Path("imported").exists() and Path("o").is_dir()
    # trust ends with its command
    forget()
    assert sample(ctrlgen, card, "--overwrite").code == 2 and not Path("imported").exists()


@pytest.mark.parametrize("name", ["os", "../nets", "a:b", ""])
def test_what_cannot_be_trusted(ctrlgen: Run, card: Path, name: str) -> None:
    outcome = sample(ctrlgen, card, "--trust", name)
    assert outcome.code == 2 and outcome.err.startswith("error trust: expected")


@pytest.mark.parametrize(
    "words",
    [("image", "sample"), ("image", "inpaint"), ("molecule", "generate"), ("check",)],
    ids=" ".join,
)
def test_every_command_that_takes_a_card_offers_it(ctrlgen: Run, words: tuple[str, ...]) -> None:
    assert "--trust" in ctrlgen(*words, "--help").out


def test_a_cost_named_on_the_command_line_is_trusted(
    ctrlgen: Run, grey_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "costs_of_mine.py").write_text("def ink(x): return x.flatten(1).mean(1)\n")
    before = list(sys.path)
    assert ctrlgen("check", "costs_of_mine:ink", "--prior", grey_card).code == 0
    assert sys.path == before
