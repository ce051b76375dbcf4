"""Priors: conditions, sampling, and what is kept on disk, whole and in pieces."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ctrlgen.priors.cards import Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT, Cosine
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.errors import CardError
from tests.priors.user_cards import CONFIG, FACTORY, edited, load, saved, user_prior


def not_a_network(**config: Any) -> dict[str, Any]:
    return config


@pytest.fixture
def toy(tmp_path: Path) -> Prior:
    return load(saved(tmp_path))


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
