"""Audio in a report: takes beside what was given and what would be there without a prior.

Shows run folders (`docs/runs.md`), those of `ctrlgen audio ...` take by take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.audio.files import read as read_file
from ctrlgen.domains.audio.players import audio_panel
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.report.media import BUDGET
from ctrlgen.report.panels import Panel
from ctrlgen.report.sections import Metric, Sample, Section, trouble

__all__ = ["PANEL", "read", "show"]


def show(
    section: Section,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    units: Iterable[Any],
    budget: float = BUDGET,
) -> None:
    """Add the sounds of a run folder; see `ctrlgen.report.panels.Panel`.

    A run of `ctrlgen audio ...` on files is shown take by take, of the files in its folder. Of any
    other the manifest's `about` says `sample_rate` (Hz) and, where they are known, `gaps` (pairs of
    seconds) and `cutoff` (Hz); its tensors are (N, channels, time).
    """
    about, result = manifest.get("about") or {}, (section.settings or {}).get("result") or {}
    if "takes" in result:
        _takes(section, result, Path(manifest["folder"]), units, budget)
    elif "sample_rate" in about:
        _signals(section, about, tensors, units, budget)
    else:
        for _ in units:  # gives the samples their courses
            pass


def _signals(
    section: Section,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    units: Iterable[Any],
    budget: float,
) -> None:
    rate = int(about["sample_rate"])
    names = {"truth": "original", "measurement": "degraded", "baseline": "trivial"}
    samples = {sample.id: sample for sample in section.samples}
    share = budget / max(len(samples) + len(names), 1)
    ranges = [(float(start), float(end)) for start, end in about.get("gaps") or ()]
    for unit in units:
        signals = unit.tensors["samples"]
        alike = {
            word: tensors[name][0]
            for name, word in names.items()
            if name in tensors and tensors[name].shape[-1] == signals.shape[-1]
        }
        for id, signal in zip(unit.ids, signals, strict=True):
            own = f"seed {samples[id].seed}"
            panel = audio_panel(
                {**alike, own: signal},
                rate,
                ranges=ranges,
                cutoff=about.get("cutoff"),
                numbers={own: {k: v for k, v in samples[id].metrics.items() if v is not None}},
                budget=share * (len(alike) + 1),
            )
            section.shared = section.shared or {"tracks": panel["tracks"][:-1]}
            samples[id].panel = {**panel, "tracks": panel["tracks"][-1:]}


def _takes(
    section: Section, result: Mapping[str, Any], folder: Path, units: Iterable[Any], budget: float
) -> None:
    """Takes of files in place of the rows of which they are made."""
    for _ in units:
        pass
    rows, takes = section.samples, result["takes"]
    samples, at = [], 0
    for id, take in enumerate(takes):
        count = sum("evaluations" in row or row["status"] == "not begun" for row in take["rows"])
        at += count
        samples.append(_take(id, take, folder, budget / len(takes)))
        if count == 1 and len(rows) == at:
            samples[-1].course = rows[at - 1].course
    section.samples = samples
    section.metrics = [Metric("file"), Metric("known, worst", "dB", "higher", 1)]


def _take(id: int, take: Mapping[str, Any], folder: Path, budget: float) -> Sample:
    rows, source = take["rows"], Path(take["source"])
    fits = [row["known_psnr_dB"] for row in rows if row.get("known_psnr_dB") is not None]
    sample = Sample(
        id=id,
        seed=take["seed"],
        status=take["status"],
        metrics={"file": source.name, **({"known, worst": min(fits)} if fits else {})},
        counts={"evaluations": sum(row.get("evaluations") or 0 for row in rows)},
        seconds=sum(row.get("seconds") or 0.0 for row in rows),
        flags=list(dict.fromkeys(flag for row in rows for flag in trouble(str(row["status"])))),
        reason=take["reason"],
    )
    file = None if take["file"] is None else folder / take["file"]
    if file is None or not file.is_file():
        return sample
    sound = read_file(file)
    rate, length = sound.rate, sound.samples.shape[1]
    ranges = [(max(0.0, a), min(b, length / rate)) for a, b in take.get("gaps_s") or ()]
    tracks, cutoff = dict[str, Tensor](), None
    if source.is_file():
        given = read_file(source)
        wave = given.samples
        if given.rate != rate:
            wave, cutoff = resample(wave[None], given.rate, rate)[0], given.rate / 2
        wave = torch.nn.functional.pad(wave, (0, length - wave.shape[1]))
        for start, end in ranges:
            wave[:, round(start * rate) : round(end * rate)] = 0
        tracks["without a prior"] = wave
    tracks[f"seed {take['seed']}"] = sound.samples
    panel = audio_panel(tracks, rate, ranges=ranges, cutoff=cutoff, budget=budget)
    sample.panel = {**panel, "group": str(source)}
    return sample


def read(path: Path, budget: float = BUDGET) -> list[Section] | None:
    """None: results of this domain are run folders."""
    return None


PANEL = Panel("audio", Path(__file__).with_name("panel.js").read_text, read, show)
