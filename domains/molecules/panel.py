"""Molecules in a report: the drawing, the model in space, properties wanted against found.

Reads the run folders of `ctrlgen molecule ...`, and FILE.json with FILE.sdf beside it. A molecule
is a few short strings on the page: its elements, its positions in hundredths of an Angstrom, its
bonds, and the SVG of RDKit; the model is built when it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctrlgen.domains.molecules.columns import MOLECULE
from ctrlgen.domains.molecules.depictions import svg
from ctrlgen.domains.molecules.front_tables import in_words, settled
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.result_tables import said
from ctrlgen.domains.molecules.sdf import read_sdf
from ctrlgen.domains.molecules.subprocesses import unpacked
from ctrlgen.report.documents import object_of
from ctrlgen.report.media import BUDGET
from ctrlgen.report.panels import Panel
from ctrlgen.report.sections import Metric, Sample, Section, trouble
from ctrlgen.runs.manifest import seeds_in
from ctrlgen.runs.schema import HISTORY, Record

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["PANEL", "bounds", "drawn"]

_COUNTS = ("evaluations", "backward passes", "objective calls", "iterations", "starts")
_VERDICTS = ("satisfied (guide)", "satisfied (evaluator)", "composition", "fragment", "scaffold")
_FRONT = ("front", "front rank")
_QUALITY = ("valid", "stable", "stable (EDM)", "novel (D_b)", "novel (QM9)", "posebusters")
_APART = {"name", "seed", "cost", "status", "reason", *_COUNTS}


def drawn(mol: Mol | None) -> dict[str, Any] | None:
    """A molecule as the page's script draws it.

    Args:
        mol: with one conformer; None gives None.

    Returns:
        "svg", a data URI; "symbols", elements with spaces between; "xyz", integers, three per atom,
        in 0.01 A; "bonds", integers, three per bond: two atoms, and twice the order.
    """
    if mol is None or not mol.GetNumAtoms():
        return None
    positions = mol.GetConformer().GetPositions() * 100
    bonds: list[int] = []
    for bond in mol.GetBonds():
        order = round(2 * bond.GetBondTypeAsDouble())
        bonds += [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), order]
    return {
        "svg": "data:image/svg+xml," + quote(svg(mol), safe=" /:;,=()'?!*@$+"),
        "symbols": " ".join(atom.GetSymbol() for atom in mol.GetAtoms()),
        "xyz": positions.round().astype(int).flatten().tolist(),
        "bonds": bonds,
    }


def bounds(text: str) -> tuple[float | None, float | None]:
    """The ends of a target as tables have it: "5500", "5000..6000", ">=5000"; None where open."""
    if text.startswith(">="):
        return float(text[2:]), None
    if text.startswith("<="):
        return None, float(text[2:])
    low, _, high = text.partition("..")
    return float(low), float(high or low)


def read(path: Path, budget: float = BUDGET) -> list[Section] | None:
    """The sections of a folder, or of FILE.json, FILE.sdf or the like; None for anything else."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    sections = []
    for file in files:
        content = object_of(file) if file.with_suffix(".sdf").is_file() else None
        if content is not None and "molecules" in content:
            sections.append(_section(file, content))
    return sections or None


def _section(file: Path, content: Mapping[str, Any]) -> Section:
    rows = content["molecules"]
    mols = [entry.mol for entry in read_sdf(file.with_suffix(".sdf"))] if rows else []
    if len(mols) != len(rows):
        raise ValueError(
            f"dir: expected {len(rows)} molecules as {file.name} has them in "
            f"{file.with_suffix('.sdf')}, got {len(mols)}"
        )
    asked = [name for name, p in PROPERTIES.items() if any(_key("target", name) in r for r in rows)]
    samples = [
        _sample(id, row, mol, asked) for id, (row, mol) in enumerate(zip(rows, mols, strict=True))
    ]
    prior, network = content.get("prior") or {}, content.get("network") or {}
    wanted = ", ".join(content.get("asked") or ())
    known = {"molecules", "warnings", "missing", "command"}
    return Section(
        title=f"Molecules: {wanted}" if wanted else f"Molecules of {file.stem}",
        samples=samples,
        problem=f"molecules {wanted}" if wanted else None,
        metrics=_metrics(rows, asked),
        panel="molecules",
        shared=_shared(asked, content.get("front")),
        facts={
            "wanted": wanted or None,
            "prior": prior.get("name"),
            "seconds": content.get("seconds"),
            "network evaluations": network.get("forward"),
        },
        environment={"prior, sha256": prior.get("sha256")},
        command=content.get("command") or "",
        settings={key: value for key, value in content.items() if key not in known},
        warnings=list(content.get("warnings") or ()),
        complete=content.get("complete", True),
        missing=list(content.get("missing") or ()),
        seconds=content.get("seconds"),
    )


def show(
    section: Section,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Any],
    units: Iterable[Any],
    budget: float,
) -> None:
    """Complete the section of a run folder: drawings, and what was wanted."""
    samples = {sample.id: sample for sample in section.samples}
    about, parts = manifest.get("about") or {}, list[Any]()
    rows: dict[int, dict[str, Any]] = {}
    for unit in units:
        rows |= {record["id"]: _counted(record) for record in unit.records}
        names = [n for n in unit.tensors if n.startswith(HISTORY + "draws ")]
        parts.append(SimpleNamespace(tensors={name: unit.tensors[name] for name in names}))
    front = about.get("front")
    if front is not None:
        front = settled(front, list(rows.values()), parts)
    asked = [n for n, _ in PROPERTIES.items() if any(_key("target", n) in r for r in rows.values())]
    for id, row in rows.items():
        text = row.pop(MOLECULE, None)
        seed = seeds_in(manifest)[id]
        own = _sample(id, {**row, "name": f"seed-{seed}"}, text and unpacked(text), asked)
        sample = samples[id]
        sample.seed, sample.metrics, sample.panel = own.seed, own.metrics, own.panel
        sample.flags = list(dict.fromkeys([*sample.flags, *own.flags]))
        sample.reason = row["reason"]
    wanted = ", ".join(about.get("asked") or ())
    section.title = f"Molecules: {wanted}" if wanted else section.title.capitalize()
    section.problem = f"molecules {wanted}" if wanted else None
    section.facts = {"wanted": wanted or None, **section.facts}
    section.metrics = _metrics(list(rows.values()), asked)
    section.shared = _shared(asked, front)


def _counted(record: Record) -> dict[str, Any]:
    """What is said of a molecule, with its counts under the names that tables have."""
    counts = {name: record[name.replace(" ", "_")] for name in _COUNTS[:-1]}  # type: ignore[literal-required]
    return {**said(record), **counts}


def _shared(asked: Sequence[str], front: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the page draws of all molecules alike."""
    shared: dict[str, Any] = {"asked": [_about(name) for name in asked]}
    if front is not None:
        shared["front"] = {key: front[key] for key in ("properties", "large", "points")}
        shared["front"]["words"] = [line.removeprefix("[dim]") for line in in_words(front)]
    return shared


def _about(name: str) -> dict[str, Any]:
    known = PROPERTIES[name]
    return {
        "name": name,
        "text": known.text,
        "unit": known.unit,
        "digits": known.decimals,
        "target": _key("target", name),
        "guide": _key("guide", name),
        "evaluator": _key("evaluator", name),
    }


def _key(who: str, name: str) -> str:
    return f"{who} {name} ({PROPERTIES[name].unit})"


def _sample(id: int, row: Mapping[str, Any], mol: Mol | None, asked: Sequence[str]) -> Sample:
    status = row.get("status") or "scored"
    flags = trouble(status)
    flags += ["invalid"] if row.get("valid") is False else []
    missed = [name for name in _VERDICTS if row.get(name) is False]
    flags += ["not satisfied"] if missed else []
    first = str(row.get("name", "")).removeprefix("seed-")
    seed = int(first) if first.isdecimal() else int(row.get("record", row.get("seed", id)))
    panel = drawn(mol)
    if panel is not None:
        panel["wanted"] = {
            name: bounds(str(row[_key("target", name)]))
            for name in asked
            if _key("target", name) in row
        }
    return Sample(
        id=id,
        seed=seed,
        status=status,
        cost=row.get("cost"),
        metrics={
            key: value for key, value in row.items() if key not in _APART and not _empty(value)
        },
        counts={name: row[name] for name in _COUNTS if name in row},
        flags=flags,
        reason=row.get("reason"),
        panel=panel,
    )


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _metrics(rows: Sequence[Mapping[str, Any]], asked: Sequence[str]) -> list[Metric]:
    """What was asked first, then verdicts; everything else is in the view of one molecule."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in _APART)
    listed = ["formula", "smiles"]
    for name in asked:
        listed += [_key(who, name) for who in ("target", "guide", "evaluator", "error")]
    listed += [*_FRONT, *_VERDICTS, *_QUALITY, "strain (kcal/mol)"]
    if not asked:
        listed += [key for key in keys if key.startswith(("evaluator ", "score "))]
    digits = {
        _key(w, n): PROPERTIES[n].decimals
        for n in PROPERTIES
        for w in ("guide", "evaluator", "error")
    }
    lower = {"strain (kcal/mol)", *(_key("error", name) for name in PROPERTIES)}
    higher = {*_VERDICTS, *_QUALITY, "similarity", "similarity to the lead"}
    order = [key for key in listed if key in keys] + [key for key in keys if key not in listed]
    return [
        Metric(
            key,
            better="lower" if key in lower else "higher" if key in higher else None,
            digits=digits.get(key, 1 if key in lower else None),
            listed=key in listed,
        )
        for key in order
    ]


PANEL = Panel("molecules", Path(__file__).with_name("panel.js").read_text, read, show)
