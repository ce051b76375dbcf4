"""Image files: every mode comes in as it should, and what is written is what was shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctrlgen.domains.images.files import (
    ROUNDING,
    is_grey,
    read_image,
    read_mask,
    with_channels,
    write_image,
)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_every_mode_is_read(mode: str, tmp_path: Path) -> None:
    colour = pixels(5, 7, 3)
    if mode == "P":
        colour = (colour // 128 * 255).astype(np.uint8)
    grey = colour[..., 0]
    source = {
        "1": Image.fromarray(grey > 127),
        "L": Image.fromarray(grey),
        "LA": Image.fromarray(grey).convert("LA"),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "RGB": Image.fromarray(colour),
        "RGBA": Image.fromarray(colour).convert("RGBA"),
        "P": Image.fromarray(colour).quantize(8),
    }[mode]
    source.save(tmp_path / "image.png")
    x = read_image(tmp_path / "image.png")
    if mode in ("RGB", "RGBA", "P"):
        expected = torch.from_numpy(colour).permute(2, 0, 1)
    else:
        shown = (grey > 127) * 255 if mode == "1" else grey
        expected = torch.from_numpy(shown.astype(np.int64))[None]
    assert x.dtype == torch.float32 and x.shape == expected.shape
    torch.testing.assert_close(x, expected / 127.5 - 1, atol=1e-6, rtol=0)


def test_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    words = np.array([[0, 1, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(words).save(tmp_path / "deep.png")
    expected = torch.tensor([[[-1, 1 / 32767.5 - 1, 32768 / 32767.5 - 1, 1]]])
    torch.testing.assert_close(read_image(tmp_path / "deep.png"), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_writing_and_reading_give_the_same_bytes(channels: int, tmp_path: Path) -> None:
    x = torch.from_numpy(pixels(channels, 6, 4)) / 127.5 - 1
    write_image(tmp_path / "x.png", x)
    torch.testing.assert_close(read_image(tmp_path / "x.png"), x, atol=1e-6, rtol=0)
    write_image(tmp_path / "y.png", 10 * x)  # clipped, not wrapped
    torch.testing.assert_close(
        read_image(tmp_path / "y.png"), (10 * x).clamp(-1, 1), atol=1 / 254, rtol=0
    )


def test_the_rounding_error_is_that_of_a_byte(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 200, 200) * 1.8 - 0.9
    write_image(tmp_path / "x.png", x)
    error = (read_image(tmp_path / "x.png") - x).square().mean().sqrt()
    assert float(error) == pytest.approx(ROUNDING, rel=0.01)


def test_a_cameras_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (3, 6, 4)
    picture.save(tmp_path / "plain.png")
    plain = read_image(tmp_path / "plain.png")
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))


def test_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "a.jpg", quality=95)
    x = read_image(tmp_path / "a.jpg")
    assert x.shape == (3, 16, 16) and (x - (200 / 127.5 - 1)).abs().max() < 0.02


def test_fitting_crops_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", (10, 10)) == 1).all()
    assert read_image(tmp_path / "wide.png", (5, 7)).shape == (1, 5, 7)


def test_masks_are_white_where_pixels_are_missing(tmp_path: Path) -> None:
    values = np.zeros((4, 6), np.uint8)
    values[1, 2] = 255
    for mode in ("L", "RGB", "1", "P"):
        Image.fromarray(values).convert(mode).save(tmp_path / "mask.png")
        known = read_mask(tmp_path / "mask.png")
        assert known.dtype == torch.bool and known.shape == (4, 6)
        assert (~known).nonzero().tolist() == [[1, 2]]


def test_channels() -> None:
    grey, colour = torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)
    assert is_grey(grey) and is_grey(colour)
    assert with_channels(grey, 3).shape == (3, 2, 2) and with_channels(colour, 1).shape == (1, 2, 2)
    colour[1] = 1
    assert not is_grey(colour)
    with pytest.raises(ValueError, match="expected a grey image, got one in colour"):
        with_channels(colour, 1)


def ramp() -> np.ndarray:
    """16 greys, 0 to 65535."""
    return (np.arange(16) * 4369).astype(np.uint16).reshape(4, 4)


@pytest.mark.parametrize("form", ["png", "tif", "pgm", "32.tif"])
def test_deep_greys_are_read_by_their_own_range(form: str, tmp_path: Path) -> None:
    words, file = ramp(), tmp_path / f"deep.{form}"
    if form == "pgm":
        file.write_bytes(b"P5 4 4 65535\n" + words.astype(">u2").tobytes())
    else:
        Image.fromarray(words.astype(np.int32) if form == "32.tif" else words).save(file)
    Image.fromarray((words // 257).astype(np.uint8)).save(tmp_path / "bytes.png")
    torch.testing.assert_close(
        read_image(file), read_image(tmp_path / "bytes.png"), atol=1e-6, rtol=0
    )
    known = read_mask(file)
    assert int(known.sum()) == 8
    assert torch.equal(known, read_mask(tmp_path / "bytes.png"))


@pytest.mark.parametrize(("low", "high"), [(0, 65536), (-1, 5), (0, 2**31 - 1)])
def test_numbers_without_a_known_range_are_refused(low: int, high: int, tmp_path: Path) -> None:
    Image.fromarray(np.array([[low, high]], dtype=np.int32)).save(tmp_path / "x.tif")
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(tmp_path / "f.tif")
    for read, name in ((read_image, "file"), (read_mask, "mask")):
        with pytest.raises(ValueError, match=f"^{name}: .*from {low} to {high}; expected 16 bits"):
            read(tmp_path / "x.tif")
        with pytest.raises(ValueError, match=f"^{name}: .*floating point"):
            read(tmp_path / "f.tif")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_written_as_black(value: float, tmp_path: Path) -> None:
    x = torch.zeros(1, 3, 3)
    x[0, 1, 1] = value
    with pytest.raises(ValueError, match=r"image: 1 of 9 values of x\.png are no numbers"):
        write_image(tmp_path / "x.png", x)
    assert not (tmp_path / "x.png").exists()
