"""The training recipe: loss, order of the data, schedule, optimiser, resuming, cards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ctrlgen
from ctrlgen.domains.images import packed, training
from ctrlgen.domains.images.classifier import ClassifierTrainer, augment
from ctrlgen.domains.images.data import Images
from ctrlgen.domains.images.networks import build
from ctrlgen.domains.images.trainer import Recipe, Trainer, flow_matching_loss
from ctrlgen.plugins import domains
from ctrlgen.training.muon import Muon, orthogonalise
from ctrlgen.training.runs import run
from ctrlgen.training.session import continue_from, export
from ctrlgen.training.trainer import Order

RECIPE = Recipe(
    name="tiny",
    dataset="mnist",
    config={"network": "unet", "shape": [1, 8, 8], "classes": 3, "widths": [8, 8]},
    batch=8,
    validation=10,
)


@pytest.fixture
def images() -> Images:
    draw = torch.Generator().manual_seed(5)
    return Images(torch.rand(50, 1, 8, 8, generator=draw) * 2 - 1, torch.arange(50) % 3)


def test_loss_is_the_mean_square_per_sample() -> None:
    data, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    t = torch.tensor([0.0, 0.25, 1.0])
    seen = []

    def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        seen.append(x)
        return data - noise + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)

    loss = flow_matching_loss(network, data, noise, t, None)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0]))
    torch.testing.assert_close(seen[0][0], noise[0])
    torch.testing.assert_close(seen[0][1], 0.25 * data[1] + 0.75 * noise[1])
    torch.testing.assert_close(seen[0][2], data[2])


def test_batches_cover_an_epoch_and_depend_on_seed_and_step() -> None:
    order = Order(22, 5, 7)
    epoch = torch.cat([order(step) for step in range(4)])
    assert len(set(epoch.tolist())) == 20
    following = torch.cat([order(step) for step in range(4, 8)])
    assert len(set(following.tolist())) == 20 and not torch.equal(epoch, following)
    assert torch.equal(order(2), epoch[10:15])
    assert not torch.equal(Order(22, 5, 8)(2), epoch[10:15])
    with pytest.raises(ValueError, match=r"batch: expected 1\.\.4, the samples, got 5"):
        Order(4, 5, 0)


def test_schedule(images: Images) -> None:
    trainer = Trainer(replace(RECIPE, lr=1.0, warmup=0.1, flat=0.5), images)
    rates = [trainer.schedule.rate(p) for p in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0.01, 0.51, 1.0, 1.0, 0.5, 0.0])


def test_orthogonalise_keeps_singular_vectors() -> None:
    matrix = torch.randn(12, 30)
    for shaped in (matrix, matrix.T):
        result = orthogonalise(shaped)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6 and values.max() < 1.25
        u, _, vt = torch.linalg.svd(shaped, full_matrices=False)
        assert torch.equal(orthogonalise(torch.stack((shaped, 2 * shaped)))[0], result)
        cosine = (result * (u @ vt)).sum() / (result.norm() * (u @ vt).norm())
        assert cosine > 0.97


def test_muon_step_has_the_size_of_adamw() -> None:
    weight = torch.nn.Parameter(torch.zeros(16, 4, 3, 3))
    weight.grad = torch.randn(16, 4, 3, 3)
    Muon([weight], lr=0.1).step()
    # A (16, 36) matrix of unit singular values has root mean square 1 / 6 = 36 ** -0.5.
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.15)
    assert float((weight.detach() * weight.grad).sum()) < 0
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_training_is_the_same_training(
    images: Images, tmp_path: Path, optimizer: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, flips=True)
    whole = Trainer(recipe, images)
    run(whole, steps=8)
    first = Trainer(recipe, images)
    for _ in range(4):
        first.step(first.steps / 8)
    first.save(tmp_path / "c.safetensors")
    second = Trainer(recipe, images)
    second.load(tmp_path / "c.safetensors")
    run(second, steps=8)
    for network in ("network", "average"):
        theirs = getattr(second, network).state_dict()
        for key, value in getattr(whole, network).state_dict().items():
            assert torch.equal(value, theirs[key]), key
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(replace(recipe, lr=1e-3), images).load(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="budget"):
        run(whole)


def test_training_learns(images: Images) -> None:
    one = Images(images.images[:1].expand(50, -1, -1, -1), images.labels)
    trainer = Trainer(replace(RECIPE, average=0.9), one)
    before = trainer.validate()
    assert run(trainer, steps=60) < 0.75 * before


def test_log_and_card_load_as_a_prior(images: Images, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, images)
    log = tmp_path / "tiny.log.jsonl"
    run(trainer, steps=4, log=log, log_every=2, validate_every=4)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e.get("step") for e in entries] == [0, 2, 4, 4]
    assert entries[0]["device"] == "cpu" and entries[0]["precision"] in ("float32", "bfloat16")
    assert math.isfinite(entries[2]["validation"]) and math.isfinite(entries[3]["final"])
    export(trainer, training.card_of(trainer, "command"), tmp_path)
    recipe = ctrlgen.priors.cards.Card.read(tmp_path / "tiny.json").recipe
    assert (recipe["device"], recipe["precision"]) == ("cpu", entries[0]["precision"])
    assert recipe["compiled"] is False and "cuda" not in recipe
    prior = ctrlgen.load(tmp_path / "tiny.json")
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    label = torch.tensor([0, 3])
    torch.testing.assert_close(
        prior.bind(label=label).velocity(x, t), trainer.average(x, t, label), rtol=0, atol=5e-3
    )
    assert set(load_file(tmp_path / "tiny.safetensors")) == set(trainer.average.state_dict())


def test_train_resumes_and_extends(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.RECIPES, "tiny", RECIPE)
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    for steps in (3, 5):
        card = training.train("tiny", data=tmp_path, steps=steps)
        assert ctrlgen.priors.Card.read(card).recipe["steps"] == steps
    log = (card.parent / "tiny.log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [0, 3, 3, 5]  # first lines, last lines
    later = card.parent / "tiny.log.jsonl"
    later.write_text("\n".join([*log, json.dumps({"step": 6})]) + "\n")
    training.train("tiny", data=tmp_path, steps=5)  # nothing left to do; step 6 was never saved
    assert [json.loads(line)["step"] for line in later.read_text().splitlines()] == [
        0,
        3,
        3,
        5,
        5,
        5,
    ]
    training.train("tiny", data=tmp_path, steps=2, resume=False, overwrite=True)
    assert len((card.parent / "tiny.log.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="name"):
        training.train("imagenet", steps=1)
    with pytest.raises(ValueError, match="budget"):
        training.train("tiny", steps=1, minutes=1)


def test_a_card_of_another_training_is_not_replaced(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.RECIPES, "tiny", RECIPE)
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    out = tmp_path / "out"
    card = training.train("tiny", data=tmp_path, steps=2, out=out)
    training.train("tiny", data=tmp_path, steps=3, out=out)  # the same training, longer
    mine = {file.name: file.read_bytes() for file in out.iterdir()}

    def refused(match: str = "out: .*tiny.json is there", **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            training.train("tiny", data=tmp_path, **{"steps": 4, "out": out, **options})
        assert {file.name: file.read_bytes() for file in out.iterdir()} == mine

    with monkeypatch.context() as context:
        context.setattr(training, "read", lambda *_: pytest.fail("the data were read"))
        refused(resume=False)
    # a checkpoint that goes on from another training than the card's
    checkpoint = tmp_path / "runs" / "images-tiny" / "checkpoint.safetensors"
    checkpoint.unlink()
    refused()
    training.train("tiny", data=tmp_path, steps=1, out=tmp_path / "other", resume=False)
    refused()  # of fewer steps
    monkeypatch.setitem(training.RECIPES, "tiny", replace(RECIPE, lr=RECIPE.lr / 2))
    training.train("tiny", data=tmp_path, steps=4, out=tmp_path / "third", resume=False)
    refused()  # of another rate
    card.write_text("{")
    mine = {file.name: file.read_bytes() for file in out.iterdir()}
    refused()
    card.unlink()
    mine.pop(card.name)
    refused("out: .*tiny.safetensors is there")
    training.train("tiny", data=tmp_path, steps=4, out=out, overwrite=True)
    assert ctrlgen.priors.cards.Card.read(card).recipe["steps"] == 4


def test_train_continues_from_embedded_weights(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    monkeypatch.setattr(training, "train", replace(training.train, weights=tmp_path / "weights"))
    monkeypatch.setitem(training.RECIPES, "tiny", RECIPE)
    training.train("tiny", data=tmp_path, steps=3, out=tmp_path / "weights")
    (tmp_path / "runs" / "images-tiny" / "checkpoint.safetensors").unlink()
    grown = {**RECIPE.config, "attention": 1}
    recipe = replace(RECIPE, dropout=0.5, config=grown)
    monkeypatch.setitem(training.RECIPES, "tiny", recipe)
    trainer = Trainer(recipe, images)
    embedded = ctrlgen.priors.Card.read(tmp_path / "weights" / "tiny.json")
    continue_from(trainer, embedded, tmp_path / "weights")
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    before = ctrlgen.load(tmp_path / "weights" / "tiny.json").flow.network(x, t)
    torch.testing.assert_close(trainer.network(x, t), before)  # a new block starts as the identity
    card = training.train("tiny", data=tmp_path, steps=5, resume_from_embedded=True)
    written = ctrlgen.priors.Card.read(card).recipe
    assert (written["steps"], written["dropout"]) == (5, 0.5)
    assert [(e["steps"], e["dropout"]) for e in written["earlier"]] == [(3, 0.1)]
    assert written["earlier"][0]["config"] == RECIPE.config
    small = replace(recipe, config={**grown, "widths": [8, 12]})
    with pytest.raises(ctrlgen.rows.errors.CardError, match="do not fit"):
        continue_from(Trainer(small, images), embedded, tmp_path / "weights")


def test_classifier_trains_and_augments(images: Images) -> None:
    config = {"shape": [1, 8, 8], "classes": 3, "widths": [8, 8, 8]}
    trainer = ClassifierTrainer(replace(RECIPE, config=config, dropout=0.0), images)
    assert 0 <= run(trainer, steps=3) <= 1
    draw = torch.Generator().manual_seed(0)
    moved = augment(images.images, draw)
    assert moved.shape == images.images.shape and moved.min() >= -1 - 1e-5 and moved.max() <= 1
    assert not torch.equal(moved, images.images)
    # The middle of a constant image stays; what comes in from outside is background.
    still = augment(torch.ones(6, 1, 28, 28), torch.Generator().manual_seed(1))
    torch.testing.assert_close(still[:, :, 10:18, 10:18], torch.ones(6, 1, 8, 8))


@pytest.mark.parametrize("kind", [Trainer, ClassifierTrainer])
def test_a_compiled_network_is_the_one_that_is_trained(
    kind: type[Trainer], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, made = list[object](), list[object]()

    def compiled(
        function: Callable[..., torch.Tensor], **settings: object
    ) -> Callable[..., torch.Tensor]:
        def call(*arguments: object, **options: object) -> torch.Tensor:
            calls.append(function)
            return function(*arguments, **options)

        made.append(call)
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    config = RECIPE.config
    if kind is ClassifierTrainer:
        config = {"shape": [1, 8, 8], "classes": 3, "widths": [4, 4, 4]}
    trainer = kind(replace(RECIPE, config=config), images)
    assert trainer.compile()
    trainer.step(0.5)
    assert 1 <= len(made) == len(calls)


def test_training_starts_from_a_packed_file_and_says_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    packed.save(pixels, np.arange(30) % 3, "mnist", tmp_path / "mnist.safetensors")
    monkeypatch.setitem(training.RECIPES, "tiny", RECIPE)
    card = training.train("tiny", data=tmp_path / "mnist.safetensors", steps=2, out=tmp_path / "o")
    assert ctrlgen.priors.cards.Card.read(card).recipe["steps"] == 2
    shown = capsys.readouterr()
    assert "tiny: training in" in shown.err and shown.out == ""  # the eye's on standard error


def test_a_card_gets_its_own_recipe(monkeypatch: pytest.MonkeyPatch, images: Images) -> None:
    """`train` takes the recipe of its device, and the larger batch needs as many images."""
    recipe = replace(RECIPE, cuda={"batch": 16, "lr": 1e-3, "compiled": True})
    taken: list[tuple[Recipe, object]] = []

    def build(recipe: Recipe, data: Images, seed: int, device: object) -> Trainer:
        taken.append((recipe, device))
        return Trainer(recipe, data, seed)

    monkeypatch.setitem(training.RECIPES, "tiny", recipe)
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    monkeypatch.setattr(training, "Trainer", build)
    monkeypatch.setattr("ctrlgen.training.training.session", lambda *_, **__: Path("card.json"))
    for device in ("cpu", "cuda"):
        training.train("tiny", data="folder", steps=1, device=device)
    assert [(made.batch, made.lr, made.compiled, device) for made, device in taken] == [
        (8, RECIPE.lr, False, "cpu"),
        (16, 1e-3, True, "cuda"),
    ]


def test_minutes_of_another_kind_of_device_do_not_count(images: Images, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, images)
    trainer.step(0.5)
    trainer.seconds = 600.0
    export(trainer, training.card_of(trainer, ""), tmp_path)
    card = ctrlgen.priors.cards.Card.read(tmp_path / "tiny.json")
    for device, expected in (("cpu", 600), ("cuda", 0)):
        card.recipe["device"] = device
        fresh = Trainer(RECIPE, images)
        continue_from(fresh, card, tmp_path)
        assert (fresh.steps, fresh.seconds) == (1, expected)
        assert fresh.earlier[0]["seconds"] == 600 and fresh.read().skipped == 0


def test_all_weights_with_the_largest_network_fit_the_package() -> None:
    """In half precision the weights beside one another take at most 60 MB."""
    recipe = training.RECIPES["cifar10-large"]
    with torch.device("meta"):
        network = build(**recipe.config)
    size = 2 * sum(value.numel() for value in network.state_dict().values())
    others = [file for domain in domains().values() for file in domain.cards.glob("*.safetensors")]
    total = sum(file.stat().st_size for file in others if file.stem != "cifar10-large")
    assert size > 11e6 and size + total < 60e6


@pytest.mark.parametrize("name", sorted(training.RECIPES))
def test_every_recipe_has_a_variant_for_a_card(name: str) -> None:
    recipe = training.RECIPES[name]
    card = recipe.on("cuda")
    assert card.compiled and card.batch >= 4 * recipe.batch
    assert card.config == recipe.config  # so that checkpoints go from one to the other


@pytest.mark.parametrize("works", [True, False])
def test_a_recipe_is_compiled_where_that_works(
    works: bool,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compiled(
        function: Callable[..., torch.Tensor], **settings: object
    ) -> Callable[..., torch.Tensor]:
        if not works:
            raise RuntimeError("no compiler")
        return function

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setitem(training.RECIPES, "tiny", replace(RECIPE, compiled=True))
    monkeypatch.setattr(training, "read", lambda name, folder: images)
    card = training.train("tiny", data=tmp_path, steps=2)
    recipe = ctrlgen.priors.cards.Card.read(card).recipe
    assert recipe["compiled"] is works and recipe["steps"] == 2
    assert (", compiled" if works else ", not compiled") in capsys.readouterr().err
