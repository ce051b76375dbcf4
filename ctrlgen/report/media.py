"""Pictures and sounds as data URIs, within the bytes that a page can spare for them."""

from __future__ import annotations

import base64
import io
from typing import Any

from ctrlgen.extras import require

__all__ = ["BUDGET", "data_uri", "picture_uri"]

BUDGET = 15_000_000
"""Bytes of pictures and sounds in a page; as text they take a third more."""

_QUALITIES = (85, 60, 30)


def data_uri(payload: bytes, kind: str) -> str:
    """Bytes of a MIME type as a URI that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(payload).decode()}"


def picture_uri(pixels: Any, share: float = BUDGET) -> tuple[str, bool]:
    """A picture as PNG, exact where that fits, and else as WebP of the quality that does.

    Args:
        pixels: bytes as a numpy array, shape (H, W) or (H, W, 3).
        share: bytes that it may take; a picture that is larger at every quality is halved.

    Returns:
        The URI, and whether it is exact.
    """
    image = require("PIL.Image", "report")
    picture = image.fromarray(pixels)
    payload = _encoded(picture, format="PNG", compress_level=1)
    if len(payload) <= share:
        return data_uri(payload, "image/png"), True
    while True:
        for quality in _QUALITIES:
            payload = _encoded(picture, format="WEBP", quality=quality, method=0)
            if len(payload) <= share:
                return data_uri(payload, "image/webp"), False
        if min(picture.size) < 64:  # a smaller one shows nothing
            return data_uri(payload, "image/webp"), False
        picture = picture.reduce(2)


def _encoded(picture: Any, **options: Any) -> bytes:
    there = io.BytesIO()
    picture.save(there, **options)
    return there.getvalue()
