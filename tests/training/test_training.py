"""What every training run keeps: no word from the device, skipped steps, budgets, checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctrlgen.training import precision as precisions
from ctrlgen.training.muon import Muon
from ctrlgen.training.optimizers import skip_when
from ctrlgen.training.precision import precision, supports_bfloat16
from ctrlgen.training.runs import run
from ctrlgen.training.schedule import Schedule
from ctrlgen.training.trainer import Trainer, generator


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    name: str = "line"
    dataset: str = "points"
    config: dict[str, Any] = field(default_factory=dict)
    cuda: Mapping[str, Any] = field(
        default_factory=lambda: {"batch": 32, "lr": 0.02, "compiled": True}
    )


class Line(Trainer):
    """A network that learns y = x from points; `broken` steps have gradients of NaN."""

    broken: frozenset[int] = frozenset()
    measured = 0

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 6), nn.SiLU(), nn.Linear(6, 6), nn.Linear(6, 1))

    def compile(self) -> bool:
        return True

    def loss(self, draw: torch.Generator) -> Tensor:
        x = torch.rand(self.schedule.batch, 1, generator=draw, device=self.device)
        self.shape = (self.steps % 3,)
        loss = (self.network(x) - x).square().mean()
        return loss * math.nan if self.steps in self.broken else loss

    def validate(self, count: int | None = None) -> float:
        return 0.5

    def quality(self) -> dict[str, float]:
        type(self).measured += 1
        return {"stable": self.steps / 100}


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def weights(trainer: Trainer) -> list[Tensor]:
    return [part.detach().clone() for part in trainer.network.parameters()]


# -- precision


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, False),
        ({"bf16": True}, True),
        ({"bf16": False, "sve": True}, False),
    ],
)
def test_the_processor_tells_whether_it_multiplies_bfloat16(
    units: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    monkeypatch.setattr(precisions, "_measured", lambda: pytest.fail("nothing to measure"))
    assert supports_bfloat16("cpu") is expected
    assert precision(True, "cpu") is (torch.bfloat16 if expected else torch.float32)
    assert precision(False, "cpu") is torch.float32


@pytest.mark.parametrize("capabilities", [None, {"avx2": True}])
@pytest.mark.parametrize("pays", [True, False])
def test_a_processor_that_says_nothing_is_measured(
    capabilities: dict[str, bool] | None, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    now = [0.0]

    def product(matrix: Tensor, _: Tensor) -> Tensor:
        half = matrix.dtype is torch.bfloat16
        now[0] += 1.0 if half == pays else 2.0
        return matrix

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(precisions.time, "perf_counter", lambda: now[0])
    assert supports_bfloat16("cpu") is pays


def test_the_card_tells_and_other_devices_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return True

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    assert supports_bfloat16("cuda") and asked == [False]
    assert not supports_bfloat16("meta")


def test_a_recipe_that_is_not_safe_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctrlgen.training.precision.supports_bfloat16", lambda device: True)
    assert Line(Recipe(), 0, "cpu").precision is torch.bfloat16
    assert Line(Recipe(autocast=False), 0, "cpu").precision is torch.float32


# -- steps


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    trainer.step(0.2)
    before = weights(trainer)
    states = [
        {
            i: {k: v.clone() for k, v in slots.items()}
            for i, slots in o.state_dict()["state"].items()
        }
        for o in trainer.optimizers
    ]
    trainer.broken = frozenset({1})
    trainer.step(0.2)
    assert all(map(torch.equal, before, weights(trainer)))
    for optimizer, state in zip(trainer.optimizers, states, strict=True):
        for index, slots in optimizer.state_dict()["state"].items():
            assert all(torch.equal(value, state[index][key]) for key, value in slots.items())
    trainer.step(0.2)
    assert not any(map(torch.equal, before, weights(trainer)))
    assert all(bool(part.isfinite().all()) for part in weights(trainer))
    reading = trainer.read()
    assert reading.skipped == 1 and math.isfinite(reading.loss) and reading.gradient > 0
    trainer.broken = frozenset({3})
    trainer.step(0.2)
    assert trainer.read().skipped == 1 and math.isnan(trainer.read().loss)


def test_skipped_steps_are_logged(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    trainer.broken = frozenset({1, 2, 4, 5})
    run(trainer, steps=6, log=tmp_path / "log", log_every=3)
    parts = [entry for entry in entries(tmp_path / "log") if "lr" in entry]
    assert [entry["skipped"] for entry in parts] == [2, 2]
    assert all(math.isfinite(entry["loss"]) for entry in parts)


def test_muon_without_a_flag_is_muon_with_a_flag_down() -> None:
    draw = torch.Generator().manual_seed(0)
    start, slopes = torch.randn(5, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    made = []
    for flagged in (False, True):
        weight = nn.Parameter(start.clone())
        muon = Muon([weight], lr=0.1, weight_decay=0.2, dtype=torch.float32)
        for slope in slopes:
            weight.grad = slope.clone()
            if flagged:
                with skip_when([muon], torch.tensor(False)):
                    muon.step()
            else:
                muon.step()
        made.append(weight.detach())
    torch.testing.assert_close(made[0], made[1], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(made[0], start)


def test_readings_are_means_since_the_last_one() -> None:
    trainer = Line(Recipe(), 0, "cpu")
    pairs = [trainer.step(0.5) for _ in range(3)]
    reading = trainer.read()
    assert reading.loss == pytest.approx(sum(float(loss) for loss, _ in pairs) / 3, rel=1e-5)
    assert reading.gradient == pytest.approx(sum(float(norm) for _, norm in pairs) / 3, rel=1e-5)
    loss, _ = trainer.step(0.5)
    assert trainer.read().loss == pytest.approx(float(loss))


def test_draws_depend_on_seed_purpose_and_step() -> None:
    def first(*key: int) -> float:
        return float(torch.rand(1, generator=generator(*key)))

    assert first(0, 2, 5) == first(0, 2, 5)
    assert len({first(0, 2, 5), first(0, 2, 6), first(0, 3, 5), first(1, 2, 5)}) == 4


# -- budgets


class Clock:
    """Every step takes a second; the first of each shape, which is compiled, a hundred."""

    def __init__(self, trainer: Line) -> None:
        self.trainer, self.now, self.shapes = trainer, 0.0, set[tuple[int, ...]]()
        self.inside = False

    def __call__(self) -> float:
        self.inside = not self.inside
        if not self.inside:
            self.now += 1.0 if self.trainer.shape in self.shapes else 100.0
            self.shapes.add(self.trainer.shape)
        return self.now


def test_compilation_is_no_part_of_the_budget(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    trainer.compiled = True
    run(trainer, minutes=0.5, log=tmp_path / "log", log_every=11, clock=Clock(trainer))
    assert trainer.seconds == 30 and trainer.steps == 33
    last = [entry for entry in entries(tmp_path / "log") if "lr" in entry][-1]
    assert last["compilation"] == 300
    plain = Line(Recipe(), 0, "cpu")
    run(plain, minutes=0.5, clock=Clock(plain))
    assert plain.seconds >= 30 and plain.steps == 1


def test_quality_is_measured_at_every_tenth(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    run(trainer, steps=40, log=tmp_path / "log")
    measured = [entry for entry in entries(tmp_path / "log") if "quality" in entry]
    assert [entry["step"] for entry in measured] == list(range(4, 41, 4))
    assert [entry["quality"]["stable"] for entry in measured] == [s / 100 for s in range(4, 41, 4)]
    again = Line(Recipe(), 0, "cpu")
    trainer.save(tmp_path / "checkpoint")
    again.load(tmp_path / "checkpoint")
    run(again, steps=80, log=tmp_path / "more")
    more = [entry["step"] for entry in entries(tmp_path / "more") if "quality" in entry]
    assert more == list(range(48, 81, 8))


def test_measuring_quality_takes_no_budget(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    clock = Clock(trainer)
    clock.shapes = {(0,), (1,), (2,)}
    slow = trainer.quality

    def quality() -> dict[str, float]:
        clock.now += 1000
        return slow()

    trainer.quality = quality  # type: ignore[method-assign]
    run(trainer, minutes=1.0, clock=clock)
    assert trainer.seconds == 60 and trainer.steps == 60


# -- kinds of devices


def test_recipes_name_what_a_card_changes() -> None:
    recipe = Recipe(batch=8, lr=0.1)
    card = recipe.on("cuda:0")
    assert (card.batch, card.lr, card.compiled) == (32, 0.02, True)
    assert card.on("cuda") == card and recipe.on("cpu") is recipe
    assert "cuda" not in card.settings() and "compiled" not in card.settings()
    assert card.settings()["batch"] == 32


def moved(path: Path, kind: str) -> Path:
    """The checkpoint as another kind of device would have written it."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    state["device"] = kind
    save_file(tensors, path, {"state": json.dumps(state)})
    return path


def test_a_run_goes_on_on_another_kind_of_device(tmp_path: Path) -> None:
    recipe = Recipe(batch=8, lr=0.1)
    before = Line(recipe.on("cuda"), 0, "cpu")
    for _ in range(5):
        before.step(0.5)
    before.seconds = 123.0
    before.save(tmp_path / "c")
    after = Line(recipe, 0, "cpu")
    with pytest.raises(ValueError, match="another recipe"):  # the same kind of device, another lr
        after.load(tmp_path / "c")
    after.load(moved(tmp_path / "c", "cuda"))
    assert (after.steps, after.seconds, after.schedule.batch) == (5, 0.0, 8)
    assert all(map(torch.equal, weights(before), weights(after)))
    (part,) = after.earlier
    assert part["device"] == "cuda" and part["steps"] == 5 and part["seconds"] == 123
    assert part["batch"] == 32 and "config" not in part and "name" not in part
    after.step(0.5)
    assert after.steps == 6 and after.read().skipped == 0
    with pytest.raises(ValueError, match="another recipe"):  # no setting of a device
        Line(replace(recipe, weight_decay=0.5), 0, "cpu").load(tmp_path / "c")


def test_checkpoints_from_before_devices_were_named_are_those_of_a_cpu(tmp_path: Path) -> None:
    trainer = Line(Recipe(), 0, "cpu")
    trainer.step(0.5)
    trainer.save(tmp_path / "c")
    tensors = load_file(tmp_path / "c")
    with safe_open(tmp_path / "c", "pt") as file:
        state = json.loads(file.metadata()["state"])
    del state["device"]
    save_file(tensors, tmp_path / "c", {"state": json.dumps(state)})
    again = Line(Recipe(), 0, "cpu")
    again.seconds = 7.0
    again.load(tmp_path / "c")
    assert again.steps == 1 and again.earlier == []


@pytest.mark.cuda
def test_a_checkpoint_of_the_processor_goes_on_on_a_card(tmp_path: Path) -> None:
    recipe = Recipe(batch=8, lr=0.1)
    before = Line(recipe, 0, "cpu")
    for _ in range(5):
        before.step(0.5)
    before.save(tmp_path / "c")
    after = Line(recipe.on("cuda"), 0, "cuda")
    after.load(tmp_path / "c")
    for _ in range(5):
        after.step(0.5)
    assert after.steps == 10 and after.read().skipped == 0
    after.save(tmp_path / "c")
    back = Line(recipe, 0, "cpu")
    back.load(tmp_path / "c")
    back.step(0.5)
    assert [part["device"] for part in back.earlier] == ["cpu", "cuda"]
