r"""What codec and prior are worth: the tables of `docs/audio.md`.

    python -m ctrlgen.domains.audio.quality codec --data data/audio --music /usr/share/games/...
    python -m ctrlgen.domains.audio.quality prior --data data/audio --clips 8
    python -m ctrlgen.domains.audio.quality levels --data data/audio --clips 32

`codec`: signal-to-noise ratio on renders of held-out scores and on files of other music.

`prior`: D-Flow, preset "fast", on clips of held-out scores beside what costs nothing: silence and a
line across a gap, or the low band alone. PSNR is at peak 1 and says little: silence in a gap of a
tenth is above 30 dB. LSD is over the gap, or over the band that is missing.

`levels`: how many clips fall silent, of the training music and of draws: the share of those whose
last second, or any half of a second, is below −40 dB.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctrlgen.domains.audio import files
from ctrlgen.domains.audio.data import RATE, Music, read
from ctrlgen.domains.audio.files import Recording
from ctrlgen.domains.audio.filters import LowPass
from ctrlgen.domains.audio.inpainting import inpaint
from ctrlgen.domains.audio.metrics import lsd, psnr, snr
from ctrlgen.domains.audio.resampling import resample
from ctrlgen.domains.audio.restoration import Settings
from ctrlgen.domains.audio.states import PretrainedCodec
from ctrlgen.domains.audio.trainer import levelled
from ctrlgen.domains.audio.upsampling import upsample
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.storage import load
from ctrlgen.runs.json_files import dumps, write_json

__all__ = [
    "codec_rows",
    "foreign_clips",
    "gap_rows",
    "held_out_clips",
    "interpolated",
    "level_row",
    "level_rows",
    "prior_rows",
]

LENGTH = 64000
_SIZE, _HOP = 1024, 256


def codec_rows(card: str, clips: dict[str, Tensor]) -> list[dict[str, Any]]:
    """SNR in dB of a codec on sets of clips (B, 1, L)."""
    codec, rows = PretrainedCodec(card), []
    for name, x in clips.items():
        with torch.no_grad():
            ratio = torch.cat([snr(codec.decode(codec.encode(part)), part) for part in x.split(8)])
        ratio = ratio[ratio.isfinite()]
        rows.append(
            {
                "set": name,
                "clips": len(ratio),
                "snr_dB": round(float(ratio.mean()), 2),
                "least_dB": round(float(ratio.min()), 2),
            }
        )
    return rows


def interpolated(x: Tensor, start: int, end: int) -> Tensor:
    """Clips (B, 1, L) with a straight line across a gap."""
    out = x.clone()
    weight = (torch.arange(end - start) + 1) / (end - start + 1)
    out[..., start:end] = x[..., start - 1, None] * (1 - weight) + x[..., end, None] * weight
    return out


def _scores(x: Tensor, truth: Tensor, where: dict[str, Any]) -> dict[str, Any]:
    distance = lsd(x, truth, size=_SIZE, hop=_HOP, **where)
    whole = psnr(x, truth)
    return {
        "lsd": round(float(distance.mean()), 3),
        "psnr_dB": round(float(whole[whole.isfinite()].mean()), 2),
    }


def gap_rows(
    prior: Prior, x: Tensor, share: float, settings: Settings
) -> tuple[list[dict[str, Any]], list[float]]:
    """Rows for a gap in the middle of clips (B, 1, L), and PSNR of what is known, by clip."""
    width = round(share * x.shape[2])
    start = (x.shape[2] - width) // 2
    end = start + width
    silent, made, known = x.clone(), [], []
    silent[..., start:end] = 0
    begun, evaluations = time.monotonic(), 0
    for clip in x:
        (take,) = inpaint(prior, Recording(clip.double(), RATE), [(start, end)], settings)
        made.append(take.recording.samples.float())
        known.append(take.rows[0]["known_psnr_dB"])
        evaluations += take.rows[0]["evaluations"]
    where = {"span": (start, end)}
    task = f"gap {share:.0%}"
    rows = [
        {"task": task, "method": "silence", **_scores(silent, x, where)},
        {"task": task, "method": "line", **_scores(interpolated(x, start, end), x, where)},
        {
            "task": task,
            "method": f"d-flow {settings.preset}",
            **_scores(torch.stack(made), x, where),
            "known_psnr_dB": round(sum(known) / len(known), 2),
            "evaluations": evaluations // len(x),
            "seconds": round((time.monotonic() - begun) / len(x), 1),
        },
    ]
    return rows, known


def band_rows(prior: Prior, x: Tensor, factor: int, settings: Settings) -> list[dict[str, Any]]:
    """Rows for clips (B, 1, L) at a rate lower by a factor."""
    operator = LowPass(factor)
    y = operator(x)
    where = {"rate": RATE, "band": (RATE / 2 / factor, RATE / 2)}
    made, evaluations, begun = [], 0, time.monotonic()
    for clip in y:
        (take,) = upsample(prior, Recording(clip.double(), RATE // factor), RATE, settings)
        made.append(take.recording.samples.float())
        evaluations += take.rows[0]["evaluations"]
    task = f"x{factor}"
    return [
        {"task": task, "method": "low-pass", **_scores(operator.pinv(y), x, where)},
        {
            "task": task,
            "method": f"d-flow {settings.preset}",
            **_scores(torch.stack(made), x, where),
            "evaluations": evaluations // len(x),
            "seconds": round((time.monotonic() - begun) / len(x), 1),
        },
    ]


def prior_rows(prior: Prior, x: Tensor, tasks: list[str], settings: Settings) -> list[dict]:
    """All rows of tasks such as "gap10" and "x4"."""
    rows: list[dict[str, Any]] = []
    for task in tasks:
        if task.startswith("gap"):
            new = gap_rows(prior, x, int(task[3:]) / 100, settings)[0]
        else:
            new = band_rows(prior, x, int(task[1:]), settings)
        print("\n".join(dumps(row, indent=None) for row in new), flush=True)
        rows += new
    return rows


def level_row(name: str, x: Tensor) -> dict[str, Any]:
    """Shares of clips (B, 1, L) at −20 dB that fall silent, L eight halves of a second."""
    level = 10 * x.unflatten(2, (8, -1)).square().mean((1, 3)).clamp_min(1e-12).log10()
    return {
        "set": name,
        "clips": len(x),
        "ends_silent": round(float((level[:, -2:] < -40).all(1).float().mean()), 3),
        "silent_somewhere": round(float((level < -40).any(1).float().mean()), 3),
    }


def level_rows(prior: Prior, music: Music, count: int, steps: Sequence[int]) -> list[dict]:
    """`level_row` of the music, 400 clips evenly spread, and of `count` draws by numbers of steps.

    Every draw is solved by midpoint steps from the source of its seed, and is as loud as it is.
    """
    rows = [level_row("training music", levelled(music, (torch.arange(400) + 0.5) / 400, LENGTH))]
    for each in steps:
        with torch.no_grad():
            parts = torch.arange(count).split(8)
            x = torch.cat([prior.sample(part.tolist(), prior.solver(each)) for part in parts])
        rows.append(level_row(f"draws, {each} steps", x[..., :LENGTH]))
    return rows


def held_out_clips(folder: Path, count: int) -> Tensor:
    """Clips of held-out scores as written, at one level, shape (count, 1, LENGTH).

    They are spread evenly over all scores, whatever variations the folder has; a place where a
    score is silent gives way to the next, and a silent stretch as long as a clip's share of the
    music to places elsewhere, spread by the golden ratio.

    Raises:
        ValueError: the scores are silent at too many places.
    """
    every = read(folder, "held-out")
    chosen = [i for i, name in enumerate(every.names) if name.endswith("-0")]
    music = Music(
        tuple(every.pieces[i] for i in chosen), tuple(every.names[i] for i in chosen), every.rate
    )
    rows = []
    for place in range(count):
        near = (place + (torch.arange(8) + 4) / 16) / count
        far = (place + 0.5) / count + torch.arange(1, 25) * (math.sqrt(5) - 1) / 2
        tries = torch.cat([near, far % 1])
        x = levelled(music, tries, LENGTH)
        heard = (x.square().mean((1, 2)) > 0).nonzero()
        if not len(heard):
            raise ValueError(f"folder: {folder} holds silence where a clip was looked for")
        rows.append(x[int(heard[0])])
    return torch.stack(rows)


def foreign_clips(paths: Sequence[Path], count: int) -> Tensor:
    """Clips of sound files, mono at the prior's rate, `count` spread evenly over each file.

    Returns:
        Shape (B, 1, LENGTH); those that are silent, or of files that are shorter, are left out.
    """
    rows = []
    for file in paths:
        recording = files.read(file)
        x = resample(recording.samples.mean(0, keepdim=True).float(), recording.rate, RATE)
        for place in range(count):
            start = round((place + 0.5) / count * max(0, x.shape[1] - LENGTH))
            part = x[:, start : start + LENGTH]
            if part.shape[1] == LENGTH and float(part.abs().max()) > 1e-3:
                rows.append(part)
    return torch.stack(rows)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("codec", "prior", "levels"))
    parser.add_argument("--data", type=Path, default=Path("data/audio"))
    parser.add_argument("--music", type=Path, nargs="*", default=[], help="sound files of others")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--card", help="name of the codec, or name or card of the prior")
    parser.add_argument("--tasks", nargs="*", default=["gap10", "gap20", "x2", "x4", "x8"])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--out", type=Path, help="file of JSON to write")
    options = parser.parse_args()
    if options.what == "levels":
        rows = level_rows(
            load(options.card or "freedoom-music"), read(options.data), options.clips, (8, 25)
        )
        print("\n".join(dumps(row, indent=None) for row in rows))
    elif options.what == "codec":
        held = held_out_clips(options.data, options.clips)
        sets = {"held-out renders": held}
        if options.music:
            sets["other music"] = foreign_clips(options.music, options.clips)
        rows = codec_rows(options.card or "mdct-16k", sets)
        print("\n".join(dumps(row, indent=None) for row in rows))
    else:
        prior = load(options.card or "freedoom-music")
        settings = Settings(preset=options.preset, iterations=options.iterations)
        held = held_out_clips(options.data, options.clips)
        rows = prior_rows(prior, held, options.tasks, settings)
    if options.out:
        write_json(options.out, rows, named=True, indent=1)


if __name__ == "__main__":
    _main()
