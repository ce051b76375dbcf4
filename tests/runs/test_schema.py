"""The schema of a run folder: what is refused, and that the guide names every field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.runs import schema

DOCUMENT = Path(__file__).parents[2] / "docs" / "runs.md"

MANIFEST: dict[str, Any] = {
    "schema": 1,
    "kind": "ctrlgen-run",
    "created": "2026-01-01T00:00:00Z",
    "command": "",
    "versions": {},
    "device": "cpu",
    "threads": 1,
    "key": {},
    "plan": None,
    "domain": None,
    "title": "",
    "seeds": [0],
    "unit": 1,
    "chunk": 1,
    "metrics": {},
    "about": {},
}


def test_a_manifest_is_accepted() -> None:
    schema.check_manifest(MANIFEST, Path("manifest.json"))


@pytest.mark.parametrize(
    "change",
    [{"kind": "result"}, {"schema": 2}, {"schema": "1"}, {"unit": 0}, {"key": None}, {"seeds": 3}],
)
def test_others_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"place/manifest\.json: "):
        schema.check_manifest(MANIFEST | change, Path("place/manifest.json"))


def test_the_guide_names_every_field() -> None:
    text = DOCUMENT.read_text()
    words = set(re.findall(r"`([\w.]+)`", text))
    fields = {*schema.Record.__annotations__, *schema.Header.__annotations__, *MANIFEST}
    assert fields <= words
    assert set(schema.SHARED) <= words
