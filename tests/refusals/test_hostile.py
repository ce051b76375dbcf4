"""Random JSON and random bytes: nothing but our errors comes out, and nothing is executed."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctrlgen
from ctrlgen.domains.images.files import read_image, read_mask
from ctrlgen.domains.images.networks import build
from ctrlgen.methods.result import Result
from ctrlgen.priors.cards import Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.rows.errors import CardError, ResultError, UnknownName

ours = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CONFIG: dict[str, Any] = {"network": "unet", "shape": [1, 4, 4], "classes": 2, "widths": [2]}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whatever runs a command, or code out of text, is noticed, also where it is caught again."""
    ran: list[str] = []

    def canary(name: str) -> Any:
        def run(*arguments: Any, **_: Any) -> None:
            ran.append(f"{name}{arguments}")
            raise AssertionError(f"{name} was called")

        return run

    for name in ("system", "popen", "execv", "posix_spawn", "kill", "fork"):
        monkeypatch.setattr(os, name, canary(f"os.{name}"))
    for name in ("Popen", "run", "call", "check_output"):
        monkeypatch.setattr(subprocess, name, canary(f"subprocess.{name}"))
    monkeypatch.setattr(builtins, "input", canary("input"))
    yield ran
    assert ran == []
    assert not {"antigravity", "this"} & set(sys.modules)  # that cards below name


names = st.sampled_from(
    [
        "os:system", "subprocess:check_output", "builtins:eval", "torch:load", "antigravity:x",
        "this:s", "ctrlgen.domains.images.networks:build", "ctrlgen.plugins:resolve",
        "ctrlgen.plugins:load_file", "ctrlgen.priors.storage:load", "ctrlgen.commands.main:main",
        "Gaussian",
        "CondOT", "VP", "Identity", "Uniform", "Scaled", "DiscreteVP", "MaskedGaussian",
        "ctrlgen.domains.molecules.states:Atoms", "ctrlgen.adapters.diffusers:rebuild",
    ]
)  # fmt: skip
numbers = st.integers(-(2**70), 2**70) | st.integers(-3, 40) | st.floats()
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | names
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "shape", "command", "beta_min", "scale", "mask", "args", "model"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = list(Card.__dataclass_fields__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("hostile")
    prior = Prior(Flow(build(**CONFIG), CondOT()), Gaussian([1, 4, 4]))
    prior.save(where, "toy", factory="ctrlgen.domains.images.networks:build", config=CONFIG)
    return where


@ours
@given(changes=st.dictionaries(st.sampled_from(FIELDS), values | names, max_size=3))
def test_cards_with_fields_of_anything(folder: Path, changes: dict[str, Any]) -> None:
    content = {**json.loads((folder / "toy.json").read_text()), **changes}
    (folder / "bad.json").write_text(json.dumps(content))
    try:
        ctrlgen.load(folder / "bad.json")
    except (CardError, UnknownName) as error:
        assert str(error)


@ours
@given(
    field=st.sampled_from(["factory", "path", "source", "codec", "grid"]),
    name=names,
    arguments=st.dictionaries(st.sampled_from(["command", "args", "shape", "source"]), values),
)
def test_cards_that_name_anything(
    folder: Path, field: str, name: str, arguments: dict[str, Any]
) -> None:
    changes = (
        {"factory": name, "config": arguments}
        if field == "factory"
        else {field: {"type": name, **arguments}}
    )
    content = {**json.loads((folder / "toy.json").read_text()), **changes}
    (folder / "bad.json").write_text(json.dumps(content))
    try:
        ctrlgen.load(folder / "bad.json")
    except (CardError, UnknownName) as error:
        assert str(error)


@ours
@given(payload=st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
def test_cards_and_results_of_bytes(folder: Path, payload: bytes) -> None:
    (folder / "bytes.json").write_bytes(payload)
    with pytest.raises(CardError):
        ctrlgen.load(folder / "bytes.json")
    with pytest.raises(ResultError):
        Result.load(folder / "bytes.json")


@ours
@given(place=st.integers(0, 3000), bits=st.integers(1, 255), cut=st.integers(0, 40))
def test_damaged_weights(folder: Path, place: int, bits: int, cut: int) -> None:
    import hashlib

    payload = bytearray((folder / "toy.safetensors").read_bytes())
    payload[place % len(payload)] ^= bits
    damaged = bytes(payload[: len(payload) - cut])
    (folder / "damaged.safetensors").write_bytes(damaged)
    content = json.loads((folder / "toy.json").read_text())
    content |= {"weights": "damaged.safetensors", "sha256": hashlib.sha256(damaged).hexdigest()}
    (folder / "damaged.json").write_text(json.dumps(content))
    try:
        ctrlgen.load(folder / "damaged.json")
    except CardError as error:
        assert str(error)


def valid_png() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (5, 4), 90).save(stream, "PNG")
    return stream.getvalue()


PNG = valid_png()


@ours
@given(
    payload=st.binary(max_size=80)
    | st.tuples(st.integers(0, len(PNG) - 1), st.integers(1, 255), st.integers(0, 30)).map(
        lambda change: (
            PNG[: change[0]] + bytes([PNG[change[0]] ^ change[1]]) + PNG[change[0] + 1 :]
        )[: len(PNG) - change[2]]
    )
    | st.binary(max_size=40).map(lambda tail: b"\x89PNG\r\n\x1a\n" + tail)
    | st.binary(max_size=40).map(lambda tail: b"BM" + tail)
    | st.binary(max_size=40).map(lambda tail: b"GIF89a" + tail)
)
def test_images_and_masks_of_bytes(folder: Path, payload: bytes) -> None:
    for read in (read_image, read_mask):
        (folder / "x.png").write_bytes(payload)
        try:
            read(folder / "x.png")
        except ValueError as error:
            assert str(error)


XYZ = "3\nwater\nO 0.0 0.0 0.1\nH 0.0 0.76 -0.47\nH 0.0 -0.76 -0.47\n"
SDF = (
    "water\n  x\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n"
    "    0.0000    0.0000    0.1000 O   0  0  0  0  0  0  0  0  0  0  0  0\nM  END\n$$$$\n"
)
edits = st.tuples(
    st.integers(0, 200),
    st.integers(0, 30),
    st.text(alphabet="0123456789.-+eENn CHO\n\0é", max_size=6),
)


def broken(text: str, change: tuple[int, int, str]) -> bytes:
    place, removed, added = change
    place %= len(text)
    return (text[:place] + added + text[place + removed :]).encode()


@ours
@given(payload=st.binary(max_size=60) | edits.map(lambda change: broken(XYZ, change)))
def test_xyz_of_bytes(folder: Path, payload: bytes) -> None:
    from ctrlgen.domains.molecules.xyz import read_xyz

    (folder / "x.xyz").write_bytes(payload)
    try:
        list(read_xyz(folder / "x.xyz"))
    except ValueError as error:
        assert str(error)


@ours
@given(payload=st.binary(max_size=60) | edits.map(lambda change: broken(SDF, change)))
def test_sdf_of_bytes(folder: Path, payload: bytes) -> None:
    pytest.importorskip("rdkit")
    from ctrlgen.domains.molecules.sdf import read_sdf

    (folder / "x.sdf").write_bytes(payload)
    try:
        list(read_sdf(folder / "x.sdf"))
    except ValueError as error:
        assert str(error)
