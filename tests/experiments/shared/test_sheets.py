"""Sheets show the pixels that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ctrlgen.experiments.shared.sheets import sheet
from ctrlgen.report.figures import save_figure


def test_pixels_of_a_sheet_are_squares_of_their_own_grey(tmp_path: Path) -> None:
    """Of black and white pixels no grey is made, at a size that is no multiple of theirs."""
    signs = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(0)).sign()
    figure, _ = sheet(dict.fromkeys("abcd", signs))
    save_figure(figure, tmp_path / "s.png", dpi=130)
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("L"))
    assert np.isin(pixels, (0, 255)).mean() > 0.99
