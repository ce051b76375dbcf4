"""Weights: in the card's folder, finite, of their network, and never larger than memory allows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ctrlgen
from ctrlgen.domains.images.networks import build
from ctrlgen.priors import weights
from ctrlgen.priors.cards import LARGEST, Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.priors.weights import Weights, bounded, content_hash
from ctrlgen.rows.errors import CardError

CONFIG = {"network": "unet", "shape": [1, 8, 8], "classes": 2, "widths": [4]}
FACTORY = "ctrlgen.domains.images.networks:build"


def toy(**config: Any) -> Prior:
    network = build(**{**CONFIG, **config})
    return Prior(Flow(network, CondOT()), Gaussian([1, 8, 8]))


def saved(folder: Path, name: str = "toy", **more: Any) -> Path:
    return toy().save(folder, name, factory=FACTORY, config=CONFIG, **more)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return saved(tmp_path)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A test that takes more than a gigabyte beyond what is held already fails at once."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def changed(card: Path, **changes: Any) -> Path:
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    return card


def with_weights(card: Path, tensors: dict[str, Tensor]) -> Path:
    file = card.with_suffix(".safetensors")
    save_file(tensors, file)
    return changed(card, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize(
    "name",
    [
        "../foreign",
        "/etc/hostname",
        "a/b",
        "..",
        ".",
        ".hidden",
        "a\\b",
        "a\0b",
        "a\nb",
        " a",
        "-a",
    ],
    ids=repr,
)
def test_weights_are_named_by_a_plain_name(card: Path, name: str) -> None:
    with pytest.raises(CardError, match=r"weights: expected the name of a file beside the card"):
        ctrlgen.load(changed(card, weights=name))
    with pytest.raises(CardError, match="expected the name of a file beside the card"):
        Weights.read("toy", card.parent, name, "0" * 64)


def test_no_hash_of_a_foreign_file_is_told(tmp_path: Path) -> None:
    foreign = tmp_path / "secret.txt"
    foreign.write_text("the colour of the key is green")
    digest = hashlib.sha256(foreign.read_bytes()).hexdigest()
    card = saved(tmp_path / "cards")
    (tmp_path / "cards" / "link").symlink_to(foreign)
    with pytest.raises(CardError, match="expected the name of a file beside the card") as caught:
        ctrlgen.load(changed(card, weights="link", sha256="0" * 64))
    assert digest not in str(caught.value)
    (tmp_path / "cards" / "copy").write_bytes(foreign.read_bytes())
    with pytest.raises(CardError, match=r"expected sha256 0{64}, .* has another") as caught:
        ctrlgen.load(changed(card, weights="copy", sha256="0" * 64))
    assert digest not in str(caught.value)


def test_what_is_no_file_does_not_hang(card: Path) -> None:
    os.mkfifo(card.parent / "pipe")
    (card.parent / "folder").mkdir()
    for name in ("pipe", "folder", "absent"):
        with pytest.raises(CardError, match=f"weights of toy: cannot read .*{name}"):
            ctrlgen.load(changed(card, weights=name))


def test_a_file_beyond_memory_is_not_read(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_memory", lambda: 1000)
    with pytest.raises(CardError, match=r"expected a file that fits in memory, got [0-9,]+ bytes"):
        ctrlgen.load(card)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}", b"PK\3\4" * 99])
def test_what_is_no_safetensors_is_told(card: Path, content: bytes) -> None:
    card.with_suffix(".safetensors").write_bytes(content)
    changed(card, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(CardError, match=r"no safetensors file|tensors are not those"):
        ctrlgen.load(card)


# ------------------------------------------------------------------ the tensors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(card: Path, bad: float) -> None:
    tensors = load_file(card.with_suffix(".safetensors"))
    tensors["stem.weight"].view(-1)[3] = bad
    with pytest.raises(CardError, match=r"weights of toy: stem\.weight: expected finite numbers"):
        ctrlgen.load(with_weights(card, tensors))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_of_another_kind(card: Path, dtype: torch.dtype) -> None:
    tensors = load_file(card.with_suffix(".safetensors"))
    tensors["stem.weight"] = tensors["stem.weight"].to(dtype)
    with pytest.raises(CardError, match=rf"stem\.weight: expected torch\.float32, got {dtype}"):
        ctrlgen.load(with_weights(card, tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(card: Path, dtype: torch.dtype) -> None:
    tensors = {k: v.to(dtype) for k, v in load_file(card.with_suffix(".safetensors")).items()}
    assert ctrlgen.load(with_weights(card, tensors)).sample([1]).dtype == torch.float32


def test_a_mask_of_infinities_is_a_table_and_no_weight() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.BatchNorm1d(3)
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    state = Masked().state_dict()
    Weights("toy", state).fill(Masked())
    with pytest.raises(CardError, match="mask: expected finite numbers"):
        Weights("toy", {**state, "mask": torch.tensor([-math.inf, 0.0])}).fill(Masked())
    with pytest.raises(CardError, match=r"num_batches_tracked: expected torch.int64, got torch"):
        Weights("toy", {**state, "layer.num_batches_tracked": torch.tensor(0.0)}).fill(Masked())


def test_a_network_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    prior = toy()
    with torch.no_grad():
        prior.flow.network.stem.weight[0] = math.nan
    with pytest.raises(CardError, match=r"stem\.weight: expected finite numbers"):
        prior.save(tmp_path / "folder", "toy", factory=FACTORY, config=CONFIG)
    assert not (tmp_path / "folder").exists()


# ------------------------------------------------------------------ sizes, before memory is taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"type": "Gaussian", "shape": [1, 1000000000]}}, "source: expected states of"),
        (
            {"config": {**CONFIG, "widths": [-1]}},
            "config: widths: expected positive integers, got \\[-1\\]",
        ),
        ({"config": {**CONFIG, "widths": [10**9]}}, "config: expected integers up to 33,554,432"),
        ({"config": {**CONFIG, "widths": [20000]}}, "config: the network .* larger than its w"),
        ({"config": {**CONFIG, "depth": 10**6}}, "config: the network .* larger than its weights"),
        ({"config": {**CONFIG, "classes": 10**12}}, "config: expected integers up to 33,554,432"),
        ({"config": {**CONFIG, "classes": 10**7}}, "config: the network .* larger than its w"),
        (
            {"config": {**CONFIG, "classes": -5}},
            "config: classes: expected an integer >= 0, got -5",
        ),
        ({"config": {**CONFIG, "shape": [10**7, 8, 8]}}, "config: the network .* larger than"),
        (
            {"config": {**CONFIG, "widths": "wide"}},
            "config: widths: expected a positive integer, got 'wide'",
        ),
        ({"config": {**CONFIG, "mean": "x"}}, "config: mean: expected a finite number, got 'x'"),
        ({"config": {**CONFIG, "depth": 2}}, "weights of toy: .* tensors are not those"),
        ({"conditions": {"label": {"classes": -1}}}, "label: classes: expected a count, got -1"),
        ({"conditions": {"label": {"classes": 2**40}}}, "label: classes: expected a count"),
        ({"conditions": {"label": {"classes": 2.5}}}, "label: classes: expected a count, got 2.5"),
        ({"conditions": {"label": {"size": 2}}}, "label: expected limits among classes, null"),
        ({"conditions": {"label": 3}}, "conditions: label: expected an object, got 3"),
        ({"name": ""}, "name: expected a plain name, got ''"),
        ({"name": "../x"}, "name: expected a plain name, got '../x'"),
        ({"name": "a\0b"}, "name: expected a plain name"),
        ({"name": 3}, "name: expected text, got 3"),
        ({"sha256": "abc"}, "sha256: expected 64 digits of the hash, got 'abc'"),
        ({"weights": ""}, "weights"),
        ({"format_version": True}, "expected format_version 1, got True"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_sizes_are_bounded(card: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CardError, match=message):
        ctrlgen.load(changed(card, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"name": "a", "name": "b"}', "a key comes twice"),
        ('{"name": NaN}', "NaN is no JSON"),
        ('{"name": 1e999}', "a number is too large"),
        ('{"name": ' + "9" * 5000 + "}", "a number is too large"),
        ('{"name": "\\ud800"}', "it is no UTF-8 text"),
        ("\ufeff{}", "expected a JSON file"),
        (" " * (LARGEST + 1), "at most 4,194,304 bytes"),
        ("[]", "expected a JSON object, got list"),
    ],
    ids=lambda text: text[:12],
)
def test_json_is_strict(card: Path, text: str, message: str) -> None:
    card.write_text(text)
    with pytest.raises(CardError, match=f"card .*toy.json: .*{message}"):
        Card.read(card)


def test_bounds_hold_for_every_way_to_make_a_tensor() -> None:
    class Large(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            size = 2**30
            makers = {"zeros": torch.zeros, "ones": torch.ones, "randn": torch.randn}
            if how == "linear":
                self.layer = nn.Linear(2**15, 2**15)
            elif how == "many":
                self.layers = nn.ModuleList(nn.Identity() for _ in range(10**9))
            else:
                self.table = nn.Parameter(makers[how](size))

    for how in ("zeros", "ones", "randn", "linear", "many"):
        with (
            pytest.raises(CardError, match="larger than its weights, 3 tensors of 10 numbers"),
            bounded(3, 10),
        ):
            Large(how)
    assert nn.Linear(2**11, 2**11).weight.numel() == 2**22  # the bounds end with their block


# ------------------------------------------------------------------ writing


@pytest.mark.parametrize("name", ["", "..", "../toy", "a/b", "/tmp/toy", ".toy", "a\0b", 3, None])
def test_saving_stays_in_its_folder(tmp_path: Path, name: Any) -> None:
    with pytest.raises(CardError, match="name: expected a plain name of a file, got"):
        saved(tmp_path / "folder", name)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_nothing_unasked(tmp_path: Path) -> None:
    file = saved(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(CardError, match=r"toy\.json is there already; overwrite=True replaces it"):
        saved(tmp_path, licence="MIT")
    file.unlink()
    with pytest.raises(CardError, match=r"toy\.safetensors is there already"):
        saved(tmp_path, licence="MIT")
    file.write_bytes(before["toy.json"])
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    saved(tmp_path, licence="MIT", overwrite=True)
    assert Card.read(file).licence == "MIT"


def test_the_hash_of_contents() -> None:
    a = {"x": torch.arange(4.0), "y": torch.zeros(2, dtype=torch.int64)}
    assert content_hash(a) == content_hash(dict(reversed(a.items())))
    others: list[dict[str, Tensor]] = [
        {**a, "x": torch.arange(4.0) + 1},
        {**a, "x": torch.arange(4.0).reshape(2, 2)},
        {**a, "x": torch.arange(4.0).double()},
        {"x": a["x"]},
        {"z": a["x"], "y": a["y"]},
    ]
    assert len({content_hash(other) for other in [a, *others]}) == 6
