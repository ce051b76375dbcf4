"""Pieces of the Markdown tables of experiments on images."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["embedder", "head", "quality", "spent"]


def head(line: str) -> list[str]:
    """The first two lines of a table from the first of them."""
    return [line, "|---" * (line.count("|") - 1) + "|"]


def embedder(row: dict[str, Any]) -> str:
    """Which Fréchet distance a row has, as a column's title."""
    return f"{row['frechet']['embedder']} (n={row['frechet']['images']})"


def quality(row: dict[str, Any]) -> str:
    """Three cells: medians of PSNR and SSIM over all images, none left out, and the distance."""
    distance = row["frechet"]["value"]
    return f"{np.median(row['psnr']):.2f} | {np.median(row['ssim']):.3f} | {distance:.2f}"


def spent(row: dict[str, Any]) -> str:
    """Five cells: y-PSNR, evaluations, vjps, seconds of the batch, rows that have diverged."""
    met = f"{np.median(row['measurement_psnr']):.1f}"
    if "evaluations" not in row:  # what costs no evaluation
        return f"{met} | 0 | 0 | |"
    counts = f"{row['evaluations']:.0f} | {row['vjps']:.0f}"
    return f"{met} | {counts} | {row['seconds']:.1f} | {row['diverged']}"
