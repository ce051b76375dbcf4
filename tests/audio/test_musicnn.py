"""musicnn: checkpoints read without TensorFlow, the network, the distance of its embeddings."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ctrlgen.domains.audio import musicnn
from ctrlgen.domains.audio.musicnn import TAGS, Musicnn, frechet, load, mel_bands
from ctrlgen.domains.audio.tensor_bundle import read_bundle

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block whose keys are cut to what they do not share with the one before."""
    out, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:]
        out, last = out + value, key
    return out + struct.pack("<II", 0, 1) + bytes(5)  # one restart; no compression, a checksum


def bundle(tensors: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
    """Index and data as TensorFlow writes them."""
    data, entries = b"", [(b"", field(1, 1))]
    for name in sorted(tensors):
        raw = tensors[name].numpy().tobytes()
        shape = b"".join(field(2, field(1, size)) for size in tensors[name].shape)
        dtype = 1 if tensors[name].dtype == torch.float32 else 9
        # fixed32, the checksum, is kind 5
        entry = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        entries.append((name.encode(), entry + varint(6 << 3 | 5) + bytes(4)))
        data += raw
    body = block(entries)
    top = block([(b"z", varint(0) + varint(len(body) - 5))])
    meta = block([])
    handles = varint(len(body) + len(top)) + varint(len(meta) - 5)
    handles += varint(len(body)) + varint(len(top) - 5)
    return body + top + meta + handles.ljust(40, b"\0") + MAGIC, data


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    torch.manual_seed(0)
    tensors = {
        "conv2d/kernel": torch.randn(3, 2, 1, 150),
        "conv2d/bias": torch.randn(150),
        "conv2d_1/bias": torch.randn(2),
        "beta1_power": torch.tensor(0.9),
        "step": torch.tensor(7),
    }
    read = read_bundle(*bundle(tensors))
    assert sorted(read) == sorted(set(tensors) - {"step"})
    for name, value in read.items():
        assert torch.equal(value, tensors[name])


def test_damage_is_named() -> None:
    index, data = bundle({"a": torch.zeros(4)})
    with pytest.raises(ValueError, match="index: expected a TensorFlow checkpoint's"):
        read_bundle(index[:-1], data)
    with pytest.raises(ValueError, match="data: a of shape"):
        read_bundle(index, data[:-1])
    place = len(block([(b"", field(1, 1))])) + 1
    with pytest.raises(ValueError, match="index"):
        read_bundle(index[: place - 8] + b"\xff" * 8 + index[place:], data)


def weights() -> dict[str, torch.Tensor]:
    """Random tensors under the names and shapes of the checkpoint."""
    draw = torch.Generator().manual_seed(0)
    kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    out = {}
    for i, shape in enumerate(kernels):
        name = f"conv2d_{i}" if i else "conv2d"
        out[f"{name}/kernel"] = torch.randn(shape, generator=draw) / math.prod(shape[:3]) ** 0.5
        out[f"{name}/bias"] = torch.randn(shape[3], generator=draw)
    sizes = [1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200]
    for i, size in enumerate(sizes):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        for part in ("beta", "gamma", "moving_mean", "moving_variance"):
            out[f"{name}/{part}"] = torch.rand(size, generator=draw) + 0.5
    for name, shape in (("dense", (1506, 200)), ("dense_1", (200, 50))):
        out[f"{name}/kernel"] = torch.randn(shape, generator=draw) / shape[0] ** 0.5
        out[f"{name}/bias"] = torch.randn(shape[1], generator=draw)
    return out


def test_the_network_is_that_of_the_checkpoint() -> None:
    """Against the published graph, written out with other operations."""
    w = weights()
    made = Musicnn(read_bundle(*bundle(w)))
    x = torch.rand(1, 40, 96, generator=torch.Generator().manual_seed(1)) * 3

    def norm(x: torch.Tensor, i: int) -> torch.Tensor:  # features last
        p = {k: w[f"batch_normalization{f'_{i}' * (i > 0)}/{k}"] for k in
             ("beta", "gamma", "moving_mean", "moving_variance")}  # fmt: skip
        scaled = (x - p["moving_mean"]) / (p["moving_variance"] + 1e-3).sqrt()
        return scaled * p["gamma"] + p["beta"]

    def layer(x: torch.Tensor, i: int) -> torch.Tensor:
        """(T + k - 1, F) to (T, F', C): every window times the kernel, bias, ReLU, norm."""
        name = f"conv2d_{i}" if i else "conv2d"
        kernel = w[f"{name}/kernel"][:, :, 0]
        windows = x.unfold(0, kernel.shape[0], 1).unfold(1, kernel.shape[1], 1)
        out = torch.einsum("tfab,abc->tfc", windows, kernel)
        return norm((out + w[f"{name}/bias"]).relu(), i + 1)

    frame = norm(x[0].unsqueeze(-1), 0).squeeze(-1)
    parts = [layer(F.pad(frame, (0, 0, 3, 3)), i).amax(1) for i in (0, 1)]
    for i, length in ((2, 128), (3, 64), (4, 32)):
        before = (length - 1) // 2
        parts.append(layer(F.pad(frame, (0, 0, before, length - 1 - before)), i).amax(1))
    layers = [torch.cat(parts, 1)]
    for i in (5, 6, 7):
        out = layer(F.pad(layers[-1], (0, 0, 3, 3)), i)[:, 0]
        layers.append(out if i == 5 else out + layers[-1])
    whole = torch.cat(layers, 1)
    pooled = norm(torch.stack((whole.amax(0), whole.mean(0)), 1).flatten(), 9)
    expected = norm((pooled @ w["dense/kernel"] + w["dense/bias"]).relu(), 10)
    torch.testing.assert_close(made(x)[0], expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"weights: expected dense/bias \(200,\), got None"):
        Musicnn({k: v for k, v in w.items() if k != "dense/bias"})


def test_mel_bands_have_unit_area_and_linear_centres_below_a_kilohertz() -> None:
    bands = mel_bands(bands=40, size=8192).double()
    width = 16000 / 8192
    torch.testing.assert_close(bands.sum(1) * width, torch.ones(40, dtype=torch.float64),
                               rtol=2e-2, atol=0)  # fmt: skip
    centres = bands.argmax(1) * width
    below = centres[centres < 950]
    assert (below.diff() - below[0]).abs().max() < 2 * width
    assert musicnn.RATE == 16000


def test_a_tone_is_in_its_band_and_signals_are_cut_to_windows() -> None:
    made = Musicnn(weights())
    time = torch.arange(64000) / 16000
    x = 0.1 * torch.sin(2 * math.pi * torch.tensor([[440.0], [2000.0]]) * time).unsqueeze(1)
    spectra = made.spectra(x)
    assert spectra.shape == (2, 251, 96)
    bands = mel_bands()
    for row, hertz in zip(spectra, (440.0, 2000.0), strict=True):
        assert int(row[100].argmax()) == int(bands[:, round(hertz * 512 / 16000)].argmax())
    embedded = made.embed(x[:1])
    assert embedded.shape == (3, 200)  # windows at 0, 31 and 62 frames
    last = made.forward(spectra[:1, 62:249])
    torch.testing.assert_close(embedded[2:], last)
    assert made.tags(x[:1, :, :48000]).shape == (1, len(TAGS))
    with pytest.raises(ValueError, match="x: expected at least 47616 samples"):
        made.embed(x[..., :40000])


def test_the_distance_of_shifted_sets_is_the_shift_and_small_sets_are_warned_of() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, dtype=torch.float64, generator=draw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet(x, x + 0.5) == pytest.approx(1.0, abs=1e-9)
    with pytest.warns(UserWarning, match="frechet: 39 embeddings of 4 numbers"):
        frechet(x[:39], x)


def test_a_missing_or_other_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fetch"):
        load(tmp_path)
    (tmp_path / "musicnn-0.1.0-py3-none-any.whl").write_bytes(b"other")
    with pytest.raises(ValueError, match="sha256"):
        load(tmp_path)
