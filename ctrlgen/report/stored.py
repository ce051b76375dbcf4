"""The section of a run folder, `docs/runs.md`: records and courses here, pictures by its domain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctrlgen.report.documents import object_of
from ctrlgen.report.media import BUDGET
from ctrlgen.report.panels import Panel
from ctrlgen.report.sections import Metric, Sample, Section, thinned
from ctrlgen.runs.schema import HISTORY, RESULT, Record
from ctrlgen.runs.store import Rows, Store

__all__ = ["courses", "run_section"]

_COUNTS = ("evaluations", "backward_passes", "objective_calls", "iterations")


def run_section(folder: Path, panels: Mapping[str, Panel], budget: float = BUDGET) -> Section:
    """What a run folder says, of all samples that are there.

    Args:
        folder: of the run.
        panels: by domain; the run's own one, if it is there, adds pictures.
        budget: bytes for them.

    Raises:
        ResultError: if something in it is damaged.
    """
    store = Store.open(folder)
    manifest, tensors = store.manifest, store.tensors
    samples = {record["id"]: _sample(record) for record in store.records()}
    summary, missing = store.summary(), store.missing
    about = manifest.get("about") or {}
    result = object_of(folder / RESULT) or {}
    prior = result.get("prior")
    prior = prior if isinstance(prior, dict) else {}
    warnings = result.get("warnings") or about.get("warnings") or ()
    damaged = (f"unit {unit}: {text}" for unit, text in store.damaged.items())
    seconds = summary.get("seconds")
    section = Section(
        title=manifest.get("title") or folder.name,
        samples=list(samples.values()),
        problem=_problem({**result, **about}, manifest.get("key") or {}, tensors),
        metrics=_metrics(manifest, samples.values()),
        panel=manifest.get("domain"),
        facts={
            **{key: value for key, value in about.items() if isinstance(value, str | int | float)},
            "prior": prior.get("name"),
            "method": summary["method"],
            "network evaluations": summary["network"].get("forward"),
            "seconds": seconds,
        },
        environment={
            **{str(k): v for k, v in (manifest.get("versions") or {}).items()},
            "device": manifest.get("device"),
            "threads": manifest.get("threads"),
            "began": manifest.get("created"),
            "prior, sha256": prior.get("sha256"),
            "key, sha256": store.key,
        },
        command=manifest.get("command") or "",
        settings={
            **{name: manifest[name] for name in ("about", "plan", "key") if manifest.get(name)},
            "result": {k: v for k, v in result.items() if k not in ("samples", "history")},
        },
        warnings=[*warnings, *store.warnings, *damaged],
        complete=not missing,
        missing=missing,
        seconds=seconds,
    )

    def units() -> Iterator[Rows]:
        for rows in store.rows():
            for id, course in zip(rows.ids, courses(rows.tensors), strict=False):
                samples[id].course = course
            yield rows

    panel = panels.get(section.panel or "")
    if panel is not None and panel.show is not None:
        panel.show(section, {**manifest, "folder": str(folder)}, tensors, units(), budget)
    else:
        for _ in units():
            pass
    return section


def courses(tensors: Mapping[str, Any]) -> Iterator[tuple[list[float], list[float]]]:
    """The course of every sample of a shard: cost against evaluations."""
    cost, evaluations = tensors.get(f"{HISTORY}cost"), tensors.get(f"{HISTORY}evaluations")
    if cost is not None and evaluations is not None and len(cost):
        for x, y in zip(evaluations.T.tolist(), cost.T.tolist(), strict=True):
            yield thinned(x, y)


def _sample(record: Record) -> Sample:
    return Sample(
        id=record["id"],
        seed=record["seed"],
        status=record["status"],
        cost=record["cost"],
        metrics=record["metrics"],
        counts={name: record[name] for name in _COUNTS},  # type: ignore[literal-required]
        seconds=record["seconds"],
        flags=record["flags"],
        reason=record["reason"],
    )


def _metrics(manifest: Mapping[str, Any], samples: Any) -> list[Metric]:
    """Those that the manifest names, then others that a sample has."""
    named = manifest.get("metrics") or {}
    names = dict.fromkeys([*named, *(name for sample in samples for name in sample.metrics)])
    return [Metric(name, **(named.get(name) or {})) for name in names]


def _problem(
    about: Mapping[str, Any], key: Mapping[str, Any], tensors: Mapping[str, Any]
) -> str | None:
    """Runs of one measurement solve one problem, and so do those of one wish or one cost."""
    names = ("problem", "task", "operator", "settings", "noise", "asked")
    said = {name: about[name] for name in names if name in about}
    if "measurement" in tensors:
        y = tensors["measurement"].contiguous()
        digest = hashlib.sha256(y.numpy().tobytes()).hexdigest()
        return json.dumps([said, digest], default=str)
    if said:
        return json.dumps(said, default=str, sort_keys=True)
    return json.dumps(key["cost"], default=str, sort_keys=True) if "cost" in key else None
