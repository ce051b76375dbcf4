"""What every image operator asks of its input: images (B, C, H, W) of a floating dtype."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_images", "check_positive_integer", "check_rows"]


def check_images(x: Tensor, name: str = "x") -> None:
    """Refuse anything but a floating tensor (B, C, H, W) without empty dimensions.

    Raises:
        TypeError: where `x` is no floating tensor.
        ValueError: where it has another number of dimensions, or an empty one.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a floating tensor of images, got {got}")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"{name}: expected images of shape (B, C, H, W), got {tuple(x.shape)}")


def check_rows(x: Tensor, rows: int, name: str) -> None:
    """Refuse a batch whose size differs from the rows of an operator's per-sample data.

    Raises:
        ValueError: where the sizes differ.
    """
    if x.shape[0] != rows:
        raise ValueError(
            f"{name}: the operator holds data of {rows} samples, got a batch of {x.shape[0]}"
        )


def check_positive_integer(value: int, name: str) -> None:
    """Refuse anything but an integer of at least one.

    Raises:
        TypeError: where `value` is no integer.
        ValueError: where it is less than one.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value}")
