"""Part 1: the tests that are marked `cuda`, by pytest in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import Any

from benchmarks.accelerated.session import Clock, Record
from benchmarks.uninstalled import ROOT

__all__ = ["headline", "read_junit", "run"]


def read_junit(file: Path) -> dict[str, Any]:
    """Counts, slowest tests and failures of a junit file of pytest."""
    cases = list(tree.parse(file).getroot().iter("testcase"))
    failures, skipped, seconds = {}, {}, {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        seconds[name] = float(case.get("time", "0"))
        for child in case:
            if child.tag in ("failure", "error"):
                failures[name] = f"{child.get('message') or ''}\n{child.text or ''}"[:3000]
            elif child.tag == "skipped":
                skipped[name] = (child.get("message") or "")[:300]
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:10]
    return {
        "tests": len(cases),
        "passed": len(cases) - len(failures) - len(skipped),
        "failed": len(failures),
        "skipped": len(skipped),
        "failures": failures,
        "reasons": sorted(set(skipped.values())),
        "slowest": {name: seconds[name] for name in slowest},
    }


def run(record: Record, clock: Clock, tests: list[str], marker: str) -> None:
    """Run the tests of a marker and record what became of each.

    Args:
        record: of the part.
        clock: of the part; pytest is stopped when it ends, and what it wrote so far is kept.
        tests: files or folders below the repository, or node ids.
        marker: expression for pytest's -m; empty for all.
    """
    report = (record.file.parent / "checks.xml").resolve()
    report.unlink(missing_ok=True)
    chosen = ["-m", marker] if marker else []
    paths = [str(ROOT / test) for test in tests if (ROOT / test.split("::")[0]).exists()]
    record.put(tests_at=tests, marker=marker)
    if not paths:
        raise FileNotFoundError(f"tests: expected some of {tests} in {ROOT}, there are none")
    command = [
        sys.executable, "-m", "pytest", "-p", "benchmarks.uninstalled", "--rootdir", str(ROOT),
        "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--tb=short", "-q", *chosen,
        *_side_by_side(), f"--junitxml={report}", *paths,
    ]  # fmt: skip
    places = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    output = record.file.parent / "checks.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
        record.put(exit=_wait(process, clock.left))
    record.put(tail=output.read_text(errors="replace")[-4000:])
    if report.is_file():
        record.put(**read_junit(report))
    if not record.content.get("tests"):
        raise RuntimeError(f"pytest: no test ran, exit {record.content['exit']}; see {output.name}")


def _side_by_side() -> list[str]:
    """Options of pytest that use half of the processors, where pytest-xdist is there."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(min(8, max(1, (os.cpu_count() or 1) // 2)))]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit status; None of one that was interrupted, so that it still reports what it knows."""
    try:
        return process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """Counts for the summary."""
    return {key: content[key] for key in ("tests", "passed", "failed", "skipped")}
