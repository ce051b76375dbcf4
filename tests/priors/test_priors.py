"""Priors: conditions, sampling, and what is kept on disk, whole and in pieces."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ctrlgen
from ctrlgen import plugins
from ctrlgen.priors.cards import Card, load_weights
from ctrlgen.priors.codecs import Scaled
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior, available
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import CardError, UnknownName
from ctrlgen.sampling.grids import Power, Uniform
from ctrlgen.solvers import Dopri5, Midpoint


class Small(nn.Module):
    """A user's network: two layers, time and an optional label as further inputs."""

    def __init__(self, dimensions: int, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes + 1, width)
        self.first = nn.Linear(dimensions + 1, width)
        self.last = nn.Linear(width, dimensions)
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            label = torch.full((len(x),), self.classes, device=x.device)
        hidden = self.first(torch.cat((x, t.unsqueeze(1)), 1)) + self.embed(label)
        return self.last(torch.tanh(hidden))


load = partial(ctrlgen.load, trust=[__name__])
FACTORY, CONFIG = f"{__name__}:Small", {"dimensions": 4, "width": 8}


def not_a_network(**config: Any) -> dict[str, Any]:
    return config


def user_prior() -> Prior:
    network = Small(**CONFIG)
    flow = Flow(network, Cosine(), "v")
    return Prior(flow, Gaussian((4,)), Scaled([2.0, 1.0, 3.0, 1.0], 0.5))


def saved(folder: Path, **card: Any) -> Path:
    conditions = {"label": {"classes": 3, "null": 3}}
    return user_prior().save(
        folder, "toy", factory=FACTORY, config=CONFIG, conditions=conditions, **card
    )


# ------------------------------------------------------------------ round trip


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    prior = user_prior()
    file = prior.save(
        tmp_path / "new" / "folder", "toy", factory=FACTORY, config=CONFIG, licence="MIT",
        data="none", quality={"loss": {"value": 0.5, "command": "make loss"}},
    )  # fmt: skip
    assert file == tmp_path / "new" / "folder" / "toy.json"
    assert sorted(f.name for f in file.parent.iterdir()) == ["toy.json", "toy.safetensors"]
    again = load(file)
    for name, value in prior.flow.network.state_dict().items():
        assert torch.equal(again.flow.network.state_dict()[name], value)
    assert isinstance(again.flow.path, Cosine) and again.flow.kind == "v"
    assert again.source.shape == (4,)
    seeds = [1, 2, 3]
    assert torch.equal(again.sample(seeds), prior.sample(seeds))
    assert again.card is not None
    assert again.card.licence == "MIT" and again.card.quality["loss"]["value"] == 0.5
    assert not again.flow.network.training
    assert not any(p.requires_grad for p in again.flow.network.parameters())


def test_a_loaded_prior_can_be_saved_again_with_its_card(tmp_path: Path) -> None:
    first = load(saved(tmp_path, licence="MIT"))
    file = first.save(tmp_path / "copy", "copy", factory=FACTORY, config=CONFIG)
    again = load(file)
    assert again.card is not None and first.card is not None
    assert (again.card.licence, again.card.name) == ("MIT", "copy")
    assert again.card.sha256 == first.card.sha256
    assert again.card.conditions == {"label": {"classes": 3, "null": 3}}


def test_the_card_is_readable_and_complete(tmp_path: Path) -> None:
    content = json.loads(saved(tmp_path).read_text())
    assert content["format_version"] == 1
    assert content["codec"] == {"type": "Scaled", "scale": [2.0, 1.0, 3.0, 1.0], "shift": 0.5}
    assert content["path"] == {"type": "Cosine"}
    assert content["source"] == {"type": "Gaussian", "shape": [4]}
    assert len(content["sha256"]) == 64
    assert Card.read(tmp_path / "toy.json").write(tmp_path / "again.json") is None
    assert json.loads((tmp_path / "again.json").read_text()) == content


def test_dtype_and_device_of_loading(tmp_path: Path) -> None:
    prior = load(saved(tmp_path), dtype=torch.float64)
    samples = prior.sample([1, 2], dtype=torch.float64)
    assert samples.dtype == torch.float64
    assert torch.allclose(samples.float(), load(tmp_path / "toy.json").sample([1, 2]), atol=1e-4)
    moved = load(tmp_path / "toy.json").to(torch.float64)
    assert torch.equal(moved.sample([1, 2], dtype=torch.float64), samples)


class Tied(nn.Module):
    """The same layer twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_tied_parameters_survive(tmp_path: Path) -> None:
    prior = Prior(Flow(Tied(), CondOT()), Gaussian((4,)))
    file = prior.save(tmp_path, "toy", factory=f"{__name__}:Tied", config={})
    assert torch.equal(load(file).sample([5]), prior.sample([5]))


def test_a_flow_on_another_clock_is_not_saved_as_its_own(tmp_path: Path) -> None:
    prior = user_prior()
    prior.flow = prior.flow.on(CondOT())
    with pytest.raises(CardError, match=r"flow: a card states the path of training, Cosine\(\)"):
        prior.save(tmp_path / "folder", "toy", factory=FACTORY, config=CONFIG)
    assert not (tmp_path / "folder").exists()


# ------------------------------------------------------------------ damage


def edited(folder: Path, **changes: Any) -> Path:
    file = saved(folder)
    content = json.loads(file.read_text())
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    file.write_text(json.dumps(content))
    return file


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    file = saved(tmp_path)
    weights = tmp_path / "toy.safetensors"
    payload = bytearray(weights.read_bytes())
    payload[-3] ^= 1
    weights.write_bytes(payload)
    with pytest.raises(CardError, match=r"expected sha256 [0-9a-f]{64}, .* has another") as caught:
        load(file)
    assert hashlib.sha256(payload).hexdigest() not in str(caught.value)


def test_truncated_weights_are_found(tmp_path: Path) -> None:
    file = saved(tmp_path)
    weights = tmp_path / "toy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CardError, match="sha256"):
        load(file)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    file = saved(tmp_path)
    (tmp_path / "toy.safetensors").unlink()
    with pytest.raises(CardError, match=r"weights of toy: cannot read .*toy\.safetensors"):
        load(file)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "toy.safetensors"
    file = saved(tmp_path)
    save_file({"first.weight": torch.zeros(2, 2)}, weights)
    content = json.loads(file.read_text())
    content["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    file.write_text(json.dumps(content))
    with pytest.raises(
        CardError, match=r"weights of toy: .*embed\.weight: expected \(4, 8\), got none"
    ):
        load(file)
    weights.write_bytes(b"these are no safetensors")
    content["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    file.write_text(json.dumps(content))
    with pytest.raises(CardError, match="weights of toy"):
        load(file)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"card"', "\x00\xff", '{"name": "x"}'])
def test_what_is_no_card_is_called_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "toy.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CardError, match=r"card .*toy\.json"):
        load(file)


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"absent\.json"):
        load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 1, got 2"),
        ({"format_version": 2, "path": ...}, "format_version 1, got 2"),
        ({"path": ...}, "path"),
        ({"path": {"type": "Straight"}}, "no 'Straight'; it has .*CondOT"),
        ({"path": {"type": "CondOT", "power": 2}}, "path: CondOT: .*:CondOT: .*'power'"),
        ({"path": "CondOT"}, "path: expected an object, got 'CondOT'"),
        ({"source": {"type": "Gaussian", "shape": [0]}}, "shape"),
        ({"source": {}}, "ctrlgen.priors.sources has no ''"),
        ({"source": {"type": 4}}, "source: expected 'module:attribute', got 4"),
        ({"source": {"type": "nowhere:Found"}}, r"source: 'nowhere:Found' .* trust=\['nowhere'\]"),
        ({"source": {"type": "ctrlgen.priors.codecs:Identity"}}, "source: .*: expected a Source"),
        ({"codec": {"type": f"{__name__}:not_a_network"}}, "codec: expected a Codec, got dict"),
        ({"codec": {"type": "Scaled", "scale": 0.0}}, "scale"),
        ({"codec": None}, "codec: expected an object, got None"),
        ({"grid": {"type": "Powers"}}, "no 'Powers'; it has .*Power"),
        ({"grid": {"type": "Power", "power": -1}}, "power: expected a positive number, got -1"),
        ({"grid": {"type": "Power", "exponent": 2}}, "exponent"),
        ({"grid": {"type": "Uniform", "start": 0.1}}, "grid: expected times from 0 to 1, got 0.1"),
        ({"grid": {"type": "Times", "at": [0, 0.5]}}, "grid: expected one with a number of steps"),
        ({"grid": {"type": "Karras"}}, "grid: expected times from 0 to 1"),
        ({"grid": {"type": "ctrlgen.priors.codecs:Identity"}}, "grid: .*: expected a Grid"),
        ({"grid": 1.5}, "grid: expected an object, got 1.5"),
        ({"prediction": "speed"}, "prediction.*'speed'"),
        ({"factory": "nowhere.to.be:found"}, "nowhere.to.be:found"),
        ({"factory": "no colon"}, "module:attribute"),
        ({"factory": f"{__name__}:not_a_network"}, "factory: expected a torch module, got dict"),
        ({"config": {"dimensions": 4, "depth": 3}}, "depth"),
        ({"config": {"dimensions": 5}}, r"first\.weight: expected \(8, 6\), got \(8, 5\)"),
        ({"config": [4]}, "config: expected an object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_damaged_field_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CardError, match=message):
        load(edited(tmp_path, **changes))


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="'mood' is no field of a card"):
        load(edited(tmp_path, mood="good"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"config": {"dimensions": 5}}, CardError, "factory: .*Small"),
        ({"config": {"dimensions": 4, "width": 9}}, CardError, "factory: .*Small"),
        ({"factory": "nowhere:found"}, CardError, "nowhere:found"),
        ({"factory": f"{__name__}:not_a_network"}, CardError, "factory"),
        ({"quality": {"loss": torch.tensor(1.0)}}, CardError, "not JSON"),
        ({"licens": "MIT"}, TypeError, "licens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_nothing_is_written_when_saving_fails(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(error, match=message):
        user_prior().save(folder, "toy", **{"factory": FACTORY, "config": CONFIG, **arguments})
    assert not folder.exists()


def test_priors_that_a_card_cannot_rebuild_are_not_saved(tmp_path: Path) -> None:
    bare = Prior(Flow(lambda x, t: x, CondOT()), Gaussian((4,)))
    with pytest.raises(CardError, match="network: expected a torch module, got function"):
        bare.save(tmp_path / "a", "toy", factory=FACTORY, config=CONFIG)
    masked = user_prior()
    masked.source = MaskedGaussian(torch.ones(2, 4, dtype=torch.bool), 3)
    with pytest.raises(CardError, match="mask"):
        masked.save(tmp_path / "a", "toy", factory=FACTORY, config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path, overwrite=True)
    monkeypatch.undo()
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    assert load(file).source.shape == (4,)


# ------------------------------------------------------------------ installed priors


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="prior: 'mnits' is not known; known are:") as caught:
        load("mnits")
    for name in available():
        assert name in str(caught.value)


def test_an_installed_domain_offers_its_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    shutil.copy(tmp_path / "toy.json", tmp_path / "other.json")
    monkeypatch.setattr(
        plugins, "domains", lambda: {"toys": plugins.Domain("toys", cards=tmp_path)}
    )
    assert sorted(available()) == ["other", "toy"]
    assert load("toy").sample([1]).shape == (1, 4)
    with pytest.raises(UnknownName, match="known are: other, toy"):
        load("mnist")


def test_networks_that_are_no_priors_are_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier has a card too, without a path: it is loaded by its domain alone."""
    file = edited(tmp_path, path={})
    monkeypatch.setattr(
        plugins, "domains", lambda: {"toys": plugins.Domain("toys", cards=tmp_path)}
    )
    assert available() == {}
    with pytest.raises(UnknownName, match="'toy' is not known; known are: none"):
        load("toy")
    network = Small(**CONFIG)
    load_weights(network, Card.read(file), tmp_path)


def test_entry_points_are_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "wrong"

        def load(self) -> str:
            return "no domain"

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    with pytest.raises(TypeError, match="'wrong': expected a Domain, got str"):
        plugins.domains.__wrapped__()


# ------------------------------------------------------------------ conditions


@pytest.fixture
def toy(tmp_path: Path) -> Prior:
    return load(saved(tmp_path))


def test_binding_labels(toy: Prior) -> None:
    bound = toy.bind(label=torch.tensor([0, 2, 3]))
    assert toy.conditions == {}
    seeds = [7, 8, 9]
    samples = bound.sample(seeds)
    for i, label in enumerate([0, 2, 3]):
        alone = toy.bind(label=[label]).sample(seeds[i : i + 1])
        assert torch.allclose(samples[i : i + 1], alone, atol=1e-6)
    assert torch.allclose(samples[2:], toy.sample(seeds[2:]), atol=1e-6)  # the null label
    assert not torch.allclose(samples[:1], toy.sample(seeds[:1]), atol=1e-3)
    kept = bound.take(torch.tensor([1]))
    assert torch.allclose(kept.sample(seeds[1:2]), samples[1:2], atol=1e-6)
    assert "label" in repr(bound)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 4], "label: expected integers from 0 to 3"),
        ([-1], "label: expected integers from 0 to 3"),
        ([1.0, 2.0], "label: expected integers from 0 to 3"),
        (2, r"label: expected one row per sample, shape \(B, ...\), got a scalar"),
    ],
)
def test_labels_out_of_range(toy: Prior, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy.bind(label=label)


def test_unknown_conditions(toy: Prior) -> None:
    with pytest.raises(UnknownName, match="condition: 'colour' is not known; known are: label"):
        toy.bind(colour=[1])


def test_conditions_of_different_sizes() -> None:
    prior = user_prior()
    with pytest.raises(ValueError, match=r"\{'a': 2, 'b': 3\}"):
        prior.bind(a=[1, 2]).bind(b=[1, 2, 3])
    with pytest.raises(ValueError, match=r"disagree"):
        Prior(prior.flow, prior.source, None, {"a": torch.zeros(2), "b": torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.bind(label=[0, 1]), "seeds: expected 2, as many as rows in conditions, got 3"),
        (
            lambda p: Prior(p.flow, MaskedGaussian(torch.ones(2, 4, dtype=torch.bool), 3)),
            "seeds: expected 2, as many as rows in source, got 3",
        ),
    ],
)
def test_wrong_numbers_of_rows(toy: Prior, change: Callable[[Prior], Prior], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(toy).sample([1, 2, 3])
    assert toy.flow.evaluations.forward == 0


def test_wrong_dtype_and_device(toy: Prior) -> None:
    with pytest.raises(ValueError, match=r"dtype: expected torch\.float32.*got torch\.float64"):
        toy.sample([1], dtype=torch.float64)
    with pytest.raises(ValueError, match="device: expected cpu, where the network is, got meta"):
        toy.sample([1], device="meta")
    assert toy.flow.evaluations.forward == 0


# ------------------------------------------------------------------ sampling


def test_samples_belong_to_their_seeds(toy: Prior) -> None:
    together = toy.sample([3, 1, 2])
    assert torch.allclose(toy.sample([1]), together[1:2], atol=1e-6)
    assert torch.equal(toy.sample([3, 1, 2]), together)
    assert not together.requires_grad


def test_generate_is_differentiable_and_inverted_by_encode(toy: Prior) -> None:
    x0 = toy.start([1, 2]).requires_grad_()
    x = toy.generate(x0, Midpoint(20))
    assert torch.autograd.grad(x.sum(), x0)[0].abs().min() > 0
    back = toy.to(torch.float64).encode(
        toy.generate(x0.detach().double(), Dopri5(1e-8, 1e-8)), Dopri5(1e-8, 1e-8)
    )
    assert torch.allclose(back, x0.detach().double(), atol=1e-6)


def test_a_prior_without_parameters_lives_on_the_cpu() -> None:
    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((2,)))
    assert prior.device == torch.device("cpu")
    assert prior.sample([1, 2]).shape == (2, 2)
    assert repr(prior).startswith("Prior(unnamed")


# ------------------------------------------------------------------ the grid of a card


def warped(steps: int, power: float = 2.0) -> list[float]:
    return [1 - (1 - k / steps) ** power for k in range(steps + 1)]


def test_the_grid_of_a_card_is_where_steps_lie(tmp_path: Path) -> None:
    prior = load(edited(tmp_path, grid={"type": "Power", "power": 2.0}))
    assert prior.solver(4).positions().tolist() == pytest.approx(warped(4), abs=1e-15)
    assert prior.solver(4, "checkpoint").gradient == "checkpoint"
    by_hand = prior.generate(prior.start([1, 2]), Midpoint(grid=warped(50)))
    assert torch.equal(prior.sample([1, 2]), by_hand)
    # what the user says wins
    even = prior.sample([1, 2], Midpoint(50))
    assert not torch.allclose(even, by_hand, atol=1e-6)
    assert prior.solver(4, grid=Uniform()).positions().tolist() == Midpoint(4).positions().tolist()
    # steps that suit one clock suit no other
    assert prior.on(CondOT()).solver(4).positions().tolist() == Midpoint(4).positions().tolist()


def test_the_grid_is_saved_and_survives_what_copies_a_prior(tmp_path: Path) -> None:
    flow = Flow(Small(**CONFIG), Cosine(), "v")
    prior = Prior(flow, Gaussian((4,)), grid=Power(7, power=1.25))
    file = prior.save(tmp_path, "toy", factory=FACTORY, config=CONFIG)
    assert json.loads(file.read_text())["grid"]["type"] == "Power"
    again = load(file)
    for copied in (again, again.bind(), again.to(torch.float64), again.take(torch.tensor([0]))):
        expected = warped(3, 1.25)
        assert copied.solver(3).positions().tolist() == pytest.approx(expected, abs=1e-15)


def test_cards_without_a_grid_have_equal_steps(tmp_path: Path) -> None:
    assert repr(load(edited(tmp_path, grid=...)).solver(4)) == repr(Midpoint(4))
