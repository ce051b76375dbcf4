"""Audio in a report: takes beside what was given and what would be there without a prior.

Reads what `ctrlgen audio ...` writes, OUT.json beside the sounds, and run folders (`docs/runs.md`).
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
from ctrlgen.report.documents import object_of
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

    The manifest's `about` says `sample_rate` (Hz) and, where they are known, `gaps` (pairs of
    seconds) and `cutoff` (Hz). Tensors are (N, channels, time).
    """
    about = manifest.get("about") or {}
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


def read(path: Path, budget: float = BUDGET) -> list[Section] | None:
    """The sections of a folder, or of OUT.json or a sound beside it; None for anything else."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    contents = {file: content for file in files if (content := object_of(file)) is not None}
    share = budget / max(len(contents), 1)
    sections = []
    for file, content in contents.items():
        if "takes" in content and "task" in content:
            sections.append(_restoration(content, share))
        elif content.get("task") == "sample" and "prior" in content:
            sections.append(_draws(file.parent, content, share))
    return sections or None


def _restoration(content: Mapping[str, Any], budget: float) -> Section:
    """Takes of one file, beside what was given and what would be there without a prior."""
    takes = content["takes"]
    sounds = [read_file(Path(take["file"])) for take in takes]
    rate, length = sounds[0].rate, sounds[0].samples.shape[1]
    ranges = [(max(0.0, a), min(b, length / rate)) for a, b in content.get("gaps_s") or ()]
    alike: dict[str, Tensor] = {}
    source, cutoff = Path(content["file"]), None
    if source.is_file():
        given = read_file(source)
        wave = given.samples
        if given.rate != rate:
            wave, cutoff = resample(wave[None], given.rate, rate)[0], given.rate / 2
        wave = torch.nn.functional.pad(wave, (0, length - wave.shape[1]))
        for start, end in ranges:
            wave[:, round(start * rate) : round(end * rate)] = 0
        alike["without a prior"] = wave
    samples, shared = [], None
    for id, (take, sound) in enumerate(zip(takes, sounds, strict=True)):
        rows, name = take["rows"], f"take {id + 1}"
        panel = audio_panel(
            {**alike, name: sound.samples},
            rate,
            ranges=ranges,
            cutoff=cutoff,
            budget=budget / len(takes),
        )
        shared = shared or {"tracks": panel["tracks"][: len(alike)]}
        fits = [row["known_psnr_dB"] for row in rows if row.get("known_psnr_dB") is not None]
        statuses = [str(row.get("status", "finished")) for row in rows] or ["finished"]
        samples.append(
            Sample(
                id=id,
                seed=take["seed"],
                status=next((s for s in statuses if trouble(s)), statuses[0]),
                metrics={"known, worst": min(fits)} if fits else {},
                counts={"evaluations": sum(row.get("evaluations") or 0 for row in rows)},
                flags=list(dict.fromkeys(flag for s in statuses for flag in trouble(s))),
                panel={**panel, "tracks": panel["tracks"][len(alike) :]},
            )
        )
    return Section(
        title=f"{content['task']} of {source.name}",
        samples=samples,
        metrics=[Metric("known, worst", "dB", "higher", 1)],
        shared=shared,
        **_about(content),
    )


def _draws(folder: Path, content: Mapping[str, Any], budget: float) -> Section:
    rows, samples = content["samples"], []
    for id, row in enumerate(rows):
        sound = read_file(folder / Path(row["file"]).name)
        own = f"seed {row['seed']}"
        panel = audio_panel({own: sound.samples}, sound.rate, budget=budget / len(rows))
        metrics = {"peak": row.get("peak")}
        samples.append(Sample(id, row["seed"], "finished", metrics=metrics, panel=panel))
    return Section(
        title=f"Draws from {content['prior']}",
        samples=samples,
        metrics=[Metric("peak", None, None, 3)],
        **_about(content),
    )


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    """What every file says of its making."""
    return {
        "panel": "audio",
        "facts": {
            "task": content["task"],
            "prior": content["prior"],
            "seconds": content["seconds"],
        },
        "environment": {"prior, sha256": content.get("sha256")},
        "command": content.get("command") or "",
        "settings": {k: v for k, v in content.items() if k not in ("takes", "samples")},
        "seconds": content["seconds"],
    }


PANEL = Panel("audio", Path(__file__).with_name("panel.js").read_text, read, show)
