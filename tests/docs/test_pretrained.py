"""The Python of docs/pretrained.md runs, with tiny stand-ins for the published weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ctrlgen
from ctrlgen.adapters import adm, latent
from ctrlgen.adapters.adm import ADM, MODELS
from ctrlgen.priors.paths import CondOT
from ctrlgen.rows.seeds import normal

DOCUMENT = Path(__file__).parents[2] / "docs" / "pretrained.md"
TINY: dict[str, Any] = {"size": 8, "width": 32, "widths": (1, 2), "blocks": 1, "attention": ()}


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "ffhq-256", TINY)
    save_file(ADM(**TINY).state_dict(), "ffhq_10m.safetensors")
    seen: dict[str, Any] = {}

    def network(x: Tensor, time: Tensor) -> Tensor:
        seen["time"] = time
        return -x

    session: dict[str, Any] = {"network": network}
    exec(blocks[0], session)
    assert (tmp_path / "priors" / "ffhq.json").exists()

    shapes: dict[str, Any] = {}
    monkeypatch.setattr(adm, "load_file", lambda file: shapes["weights"])
    settings = re.search(r"settings = (.*)\n", blocks[1]), re.search(r"flow = (.*)\n", blocks[1])
    config = {k: v for part in settings if part for k, v in eval(part[1]).items()}
    with torch.device("meta"):
        shapes["weights"] = ADM(**config).state_dict()
    exec(blocks[1], session)
    assert isinstance(session["prior"].flow.path, CondOT)

    exec(blocks[2], session)
    x = normal([1], (3, 256, 256))
    assert torch.equal(session["prior"].velocity(x, 0.5), -x)
    assert seen["time"].item() == 499.5

    diffusers = pytest.importorskip("diffusers")
    sizes = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 2}
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    folder = tmp_path / "path" / "to" / "pipeline"
    unet = diffusers.UNet2DModel(**sizes, **kinds, attention_head_dim=2, layers_per_block=1)
    unet.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(10, beta_end=0.3).save_pretrained(folder / "scheduler")
    exec(blocks[3], session)
    assert ctrlgen.load(tmp_path / "priors" / "cifar.json").source.shape == (3, 8, 8)

    def pretend(model: str, **options: Any) -> Any:
        seen.update(options, model=model)
        return type("Prior", (), {"bind": lambda self, **c: seen.update(c) or self})()

    monkeypatch.setattr(latent, "encode_text", lambda model, prompts: {"text": prompts})
    monkeypatch.setattr(latent, "from_latent", pretend)
    exec(blocks[4], session)
    assert seen["null"] == {"text": [""]} and len(seen["text"]) == 2


def test_a_model_of_diffusers_is_saved_to_a_card_that_commands_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from ctrlgen.commands.main import main

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    unet.save_pretrained("path/to/pipeline/unet", safe_serialization=True)
    diffusers.DDPMScheduler().save_pretrained("path/to/pipeline/scheduler")
    block = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[3]
    exec(block, {})
    assert [file.name for file in (tmp_path / "priors").iterdir()] == ["cifar.json"]
    card = ["--prior", "priors/cifar.json"]
    for words in (
        ["image", "sample", *card, "-n", "2", "--steps", "2", "--out", "drawn"],
        ["image", "denoise", "drawn/sample-0.png", *card, "--noise", "0.2", "--degrade",
         "--method", "ddrm", "--evaluations", "3", "--out", "restored"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code in (0, None), capsys.readouterr().err
    assert (tmp_path / "drawn" / "sample-1.png").exists()
    assert (tmp_path / "restored" / "reconstruction-0.png").exists()
