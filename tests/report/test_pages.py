"""The page as text: what is in it, that nothing leaves it, and how large it is."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.report.libraries import plotly
from ctrlgen.report.pages import embedded, is_page, page, write_page
from ctrlgen.report.sections import Metric, Sample, Section, thinned, trouble
from ctrlgen.rows.errors import MissingExtra


def data_of(text: str) -> Any:
    """What the scripts of a page read."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert match is not None

    def strict(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(match[1], parse_constant=strict)


def test_data_are_strict_json_that_no_text_can_end(hostile: str) -> None:
    text = embedded({"a": [hostile, math.nan, math.inf, True, None], hostile: "\u2028é\udc80"})
    assert not set("<>&") & set(text) and text.isascii()
    back = json.loads(text)
    assert back["a"] == [hostile, None, None, True, None]
    assert back[hostile] == "\u2028é\udc80"


def test_hostile_texts_stay_texts(hostile: str) -> None:
    sample = Sample(0, 3, hostile, 1.0, {hostile: hostile}, {hostile: 1}, None, [hostile], hostile)
    section = Section(
        hostile, [sample], hostile, [Metric(hostile, hostile)], facts={hostile: hostile},
        environment={hostile: hostile}, command=hostile, settings={hostile: [hostile]},
        warnings=[hostile], course=hostile,
    )  # fmt: skip
    text = page([section, section])
    data = data_of(text)
    assert data["sections"][0]["samples"][0]["metrics"] == {hostile: hostile}
    assert f"<title>{html.escape(hostile + '')}</title>" in text
    own = text.replace(plotly(), "")
    assert "<img src=x" not in own and "<script>alert" not in own
    assert len(re.findall(r"<script\b", own)) == 3 == len(re.findall(r"</script>", own))


def test_the_policy_runs_the_scripts_of_the_page_and_loads_nothing(
    plain_section: Section,
) -> None:
    text = page([plain_section])
    match = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert match is not None
    policy = html.unescape(match[1])
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert allowed == digests and len(digests) == 2
    own = text.replace(plotly(), "")
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", own)


def test_a_page_says_all_that_is_known(plain_section: Section, tmp_path: Path) -> None:
    plain_section.samples[1].flags = ["diverged"]
    file = write_page(tmp_path / "new" / "r.html", [plain_section], "My title")
    data = data_of(file.read_text())
    assert data["title"] == "My title" and data["comparisons"] == []
    own = data["sections"][0]
    assert own["metrics"] == [
        {"name": "psnr", "unit": "dB", "better": "higher", "digits": 2, "listed": True}
    ]
    assert own["samples"][1]["flags"] == ["diverged"] and "flags" not in own["samples"][0]
    assert is_page(file) and not is_page(tmp_path / "none")
    (tmp_path / "other.html").write_text("<html>")
    assert not is_page(tmp_path / "other.html")
    with pytest.raises(ValueError, match="sections: expected at least one run"):
        page([])


def test_plotly_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plotly.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r"ctrlgen\[report\]"):
        plotly()
    monkeypatch.undo()
    assert "plotly.js v" in plotly()[:200] and "</script" not in plotly().lower()


def test_a_thinned_course_keeps_its_ends_and_the_last_of_each_count() -> None:
    x, y = thinned([1, 2, 2, 3], [5.0, 4.0, 3.0, 1 / 3])
    assert (x, y) == ([1, 2, 3], [5.0, 3.0, 0.333333])
    x, y = thinned(list(range(1000)), [float(k) for k in range(1000)], points=10)
    assert len(x) == 10 and (x[0], x[-1]) == (0, 999) and x == [int(v) for v in y]


def test_only_failures_are_trouble() -> None:
    assert trouble("diverged: value or gradient not finite") == ["diverged"]
    assert trouble("stopped: iteration budget spent") == trouble("reached its target") == []
