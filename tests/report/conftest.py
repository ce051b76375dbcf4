"""Results of every domain as a report finds them, and a browser that says what it meets."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules.sdf import write_sdf
from ctrlgen.methods.result import Result
from ctrlgen.priors.flows import Evaluations
from ctrlgen.report.sections import Section
from ctrlgen.rows.status import Status
from ctrlgen.runs.manifest import manifest_of
from ctrlgen.runs.shards import Shard, records_of
from ctrlgen.runs.store import Store

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"

SMILES = ("CCO", "c1ccccc1O", "CC(=O)N", "C#CC=O", "C1CC1N", "OCC(F)(F)F")


@pytest.fixture(scope="session")
def hostile() -> str:
    """A text that would run as a script where it is taken for HTML."""
    return HOSTILE


def made(samples: Tensor, seeds: list[int], costs: Tensor) -> Result:
    """A result with courses of ten rounds; the last sample has diverged."""
    rows = len(seeds)
    count = torch.arange(1, 11)[:, None].expand(10, rows) * 6
    status = torch.full((rows,), int(Status.TARGET))
    status[-1] = int(Status.DIVERGED)
    return Result(
        samples=samples,
        controls=torch.zeros(rows, 1),
        costs=costs,
        status=status,
        seeds=torch.tensor(seeds),
        iterations=count[-1] // 6,
        evaluations=count[-1],
        backward_passes=count[-1] // 2,
        objective_calls=count[-1] // 6,
        network=Evaluations(),
        history={"cost": costs * 10 / count, "evaluations": count},
        method="DFlow",
    )


def stored(
    folder: Path,
    samples: Tensor,
    metrics: dict[str, list[Any]],
    *,
    domain: str | None,
    title: str = "a run",
    about: dict[str, Any] | None = None,
    shared: dict[str, Tensor] | None = None,
    command: str = "ctrlgen ...",
) -> Path:
    """A run folder of one unit."""
    rows = len(samples)
    costs = torch.linspace(0.1, 2, rows)
    result = made(samples, list(range(rows)), costs)
    named = {name: {"unit": "dB", "better": "higher"} for name in metrics}
    manifest = manifest_of(
        seeds=range(rows), unit=rows, key={"cost": "c"}, device="cpu", threads=1, domain=domain,
        title=title, about=about, metrics=named, command=command,
    )  # fmt: skip
    store = Store.create(folder, manifest)
    table = [{name: values[row] for name, values in metrics.items()} for row in range(rows)]
    records = records_of(result, 0, 1.0, table, [[] for _ in range(rows)], [None] * rows)
    store.write(Shard.of(result, records, unit=0, first=0, key=store.key, seconds=1.0, chunk=rows))
    store.put(**(shared or {}))
    return folder


@pytest.fixture
def result_of() -> Callable[..., Result]:
    """Builds a result of samples, seeds and costs; see `made`."""
    return made


def pictures(rows: int, side: int, channels: int = 3) -> Tensor:
    """Smooth images in [-1, 1], no two alike."""
    axis = torch.linspace(-1, 1, side)
    phase = torch.arange(rows * channels).view(rows, channels, 1, 1) * 0.7
    return torch.sin(3 * axis[:, None] + 2 * axis + phase)


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    """Builds the run folder of a restoration, the last sample not finite."""

    def build(
        folder: Path, rows: int = 6, side: int = 16, shift: float = 0.0, **words: Any
    ) -> Path:
        truth = pictures(1, side)
        generator = torch.Generator().manual_seed(int(10 * shift))
        noise = 0.1 * torch.randn(rows, *truth.shape[1:], generator=generator)
        samples = (truth + noise).clamp(-1, 1)
        samples[-1] = math.nan
        values = [20.0 + shift + (0.1 + 0.01 * shift) * row for row in range(rows - 1)]
        shared = {"truth": truth, "measurement": truth[..., ::2, ::2], "baseline": truth.flip(3)}
        about = {"operator": "SuperResolution", "noise": 0.0}
        options = {"domain": "images", "title": "upsample", "about": about, **words}
        return stored(folder, samples, {"psnr": [*values, None]}, shared=shared, **options)

    return build


@pytest.fixture(scope="session")
def molecules() -> Callable[..., Path]:
    """Builds FILE.sdf and FILE.json as `ctrlgen molecule generate` writes them."""

    def build(file: Path, rows: int = 6, name: str | None = None) -> Path:
        from rdkit import Chem
        from rdkit.Chem import AllChem

        few = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
        for mol in few:
            AllChem.EmbedMolecule(mol, randomSeed=1)
        mols: list[Any] = [few[row % len(few)] for row in range(rows - 1)] + [None]
        told = [
            {
                "name": f"seed-{row}", "seed": row, "formula": None if mol is None else "C2H6O",
                "smiles": name or (None if mol is None else SMILES[row % len(SMILES)]),
                "valid": mol is not None, "reason": None if mol is not None else "no molecule",
                "satisfied (guide)": row % 2 == 0, "target gap (meV)": "5500",
                "guide gap (meV)": 5400.0 + row, "evaluator gap (meV)": 5350.0 + 2 * row,
                "error gap (meV)": 150.0 - 2 * row, "cost": 0.1 + row,
                "status": "reached its target", "evaluations": 60 + row, "objective calls": 10,
            }
            for row, mol in enumerate(mols)
        ]  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sdf(file, mols, [{"name": row["name"]} for row in told])
        content = {
            "command": "ctrlgen molecule generate -p gap=5.5eV", "asked": ["gap = 5500 meV"],
            "prior": {"name": "qm9-heavy", "sha256": "0" * 64}, "complete": True, "missing": [],
            "seconds": 12.0, "network": {"forward": 600}, "molecules": told, "warnings": [],
        }  # fmt: skip
        file.with_suffix(".json").write_text(json.dumps(content))
        return file

    return build


@pytest.fixture(scope="session")
def sounds() -> Callable[..., Path]:
    """Builds the run folder of a filled gap in one second of two tones."""

    def build(folder: Path, takes: int = 2) -> Path:
        time = torch.arange(16000) / 16000
        truth = 0.3 * torch.sin(2764.6 * time) + 0.2 * torch.sin(9000 * time)
        gap = (time > 0.45) & (time < 0.55)
        silent = truth.masked_fill(gap, 0.0)[None, None]
        filled = [0.2 * gap * torch.sin((9 + take) * 800 * time) for take in range(takes)]
        return stored(
            folder,
            torch.cat([silent + each for each in filled]),
            {"PSNR in the gap": [12.0 + take for take in range(takes)]},
            domain="audio",
            title="a gap of 100 ms",
            shared={"truth": truth[None, None], "measurement": silent, "baseline": silent},
            about={"sample_rate": 16000, "gaps": [[0.45, 0.55]]},
        )

    return build


class Page:
    """A page in a browser, with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1200, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 500
        )
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", self._said)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.errors.append("a dialog"), dialog.dismiss()))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri(), wait_until="load", timeout=120_000)
        self.tab.wait_for_selector("html[data-ready=yes]")

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def check(self) -> None:
        """No error, and nothing from anywhere but this file."""
        assert self.errors == []
        outside = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert len(outside) == 1 and outside[0].startswith("file:")

    def colours(self, selector: str) -> int:
        """Different colours that an element shows."""
        import io

        from PIL import Image

        shot = self.tab.locator(selector).first.screenshot()
        with Image.open(io.BytesIO(shot)) as picture:
            return len(picture.convert("RGB").getcolors(1 << 22) or ())

    def row(self, number: int) -> None:
        """Open the view of a row of the table."""
        self.tab.locator("tbody tr.row").nth(number).click()
        self.tab.wait_for_selector("dialog[open] .panel[data-ready=yes]")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, where the system has one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; Debian's package is chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=found,
            timeout=180_000,
            args=[
                "--no-sandbox",
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
                "--disable-audio-output",  # a clock that runs, and no device
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens a file in the browser."""
    pages: list[Page] = []

    def load(file: Path, **options: Any) -> Page:
        pages.append(Page(browser, file, **options))
        return pages[-1]

    yield load
    for page in pages:
        page.context.close()


@pytest.fixture
def plain_section() -> Section:
    """A section of numbers alone."""
    from ctrlgen.report.sections import Metric, Sample

    samples = [
        Sample(k, k, "finished", 1.0 + k, {"psnr": 20.0 + k}, {"evaluations": 60}) for k in range(4)
    ]
    return Section("plain", samples, "p", [Metric("psnr", "dB", "higher", 2)])
