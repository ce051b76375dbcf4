"""The page to listen to that a command writes: the file, what costs nothing, and the takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.panel import audio_panel
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.report.pages import write_page
from ctrlgen.report.sections import Metric, Sample, Section

__all__ = ["line_across", "write"]

_BUDGET = 8e6  # bytes of the sounds of a page


def line_across(x: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Samples (C, L) with a straight line across each gap, level at the ends of the file."""
    out = x.clone()
    for start, end in spans:
        left = x[:, start - 1] if start else x[:, min(end, x.shape[1] - 1)]
        right = x[:, end] if end < x.shape[1] else left
        weight = (torch.arange(end - start, dtype=x.dtype) + 1) / (end - start + 1)
        out[:, start:end] = left[:, None] * (1 - weight) + right[:, None] * weight
    return out


def write(
    file: Path, before: Recording, after: Sequence[Recording], content: Mapping[str, Any]
) -> Path:
    """Write the page of a run.

    Args:
        file: of the page.
        before: the file as it was.
        after: the takes.
        content: what the command's JSON says.

    Raises:
        MissingExtra: plotly or matplotlib is not installed.
    """
    rate, length = after[0].rate, after[0].samples.shape[1]
    ranges = [(float(a), float(b)) for a, b in content.get("gaps_s", ())]
    shown = before.samples
    if before.rate != rate:
        shown = resample(shown, before.rate, rate)
    shown = torch.nn.functional.pad(shown, (0, max(0, length - shown.shape[1])))[:, :length]
    spans = [(round(a * rate), round(b * rate)) for a, b in ranges]
    if spans:
        silent = shown.clone()
        for start, end in spans:
            silent[:, start:end] = 0
        alike = {"degraded": silent.float(), "trivial": line_across(shown, spans).float()}
    else:
        alike = {"degraded": shown.float()}
    cutoff = before.rate / 2 if before.rate != rate else None
    samples, shared = [], None
    for number, (take, told) in enumerate(zip(after, content["takes"], strict=True)):
        rows = told["rows"]
        known = [row["known_psnr_dB"] for row in rows if "known_psnr_dB" in row]
        numbers = {"known (dB)": min(known)} if known else {}
        name = f"seed {told['seed']}"
        panel = audio_panel(
            {**alike, name: take.samples.float()},
            rate,
            ranges=ranges,
            cutoff=cutoff,
            numbers={name: numbers},
            budget=_BUDGET / len(after),
        )
        shared = shared or {"tracks": panel["tracks"][:-1]}
        counts = {
            key: sum(row.get(key, 0) for row in rows)
            for key in ("evaluations", "backward_passes", "objective_calls")
        }
        samples.append(
            Sample(
                number,
                told["seed"],
                ", ".join(dict.fromkeys(row["status"] for row in rows)) or "unchanged",
                metrics=numbers,
                counts=counts,
                panel={**panel, "tracks": panel["tracks"][-1:]},
            )
        )
    section = Section(
        f"{content['task']}: {Path(content['file']).name}",
        samples,
        metrics=[Metric("known (dB)", "dB", "higher", 1)],
        panel="audio",
        shared=shared,
        facts={"prior": content["prior"], "preset": content["settings"]["preset"]},
        settings=dict(content["settings"]),
        seconds=content["seconds"],
    )
    return write_page(file, [section])
