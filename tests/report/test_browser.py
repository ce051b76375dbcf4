"""The page in a browser: nothing is asked of a network, nothing fails, everything is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrlgen.report.pages import write_page
from ctrlgen.report.reading import read_all

Build = Callable[..., Path]
Opened = Callable[..., Any]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def everything(
    images: Build, molecules: Build, sounds: Build, hostile: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A page of all domains, with a hostile title, name and command."""
    folder = tmp_path_factory.mktemp("all")
    places = [
        images(folder / "a", title=f"first {hostile}", command=hostile),
        images(folder / "b", shift=0.5, title="second"),
        molecules(folder / "m" / "m.sdf", name=hostile),
        sounds(folder / "s"),
    ]
    return write_page(folder / "report.html", read_all(places))


def seeds(page: Any) -> list[str]:
    """What the first column of the table says."""
    return [
        text.strip() for text in page.tab.locator("tbody tr.row td:first-child").all_inner_texts()
    ]


def test_every_panel_is_drawn_and_nothing_leaves_the_page(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    for place in page.tab.locator("#charts .chart, #comparison .chart").all():
        place.scroll_into_view_if_needed()
        page.tab.wait_for_function("e => e.dataset.drawn === 'yes'", arg=place.element_handle())
    assert page.tab.locator("#charts .chart").count() == 3  # courses, a metric, wanted and found
    assert all(page.colours(f"#charts .card:nth-child({n}) .chart") > 20 for n in (1, 2, 3))
    assert page.colours("#comparison .chart") > 10
    assert "6 of 6" not in page.tab.locator("#comparison tbody").inner_text()  # one has no value
    assert "5 of 5" in page.tab.locator("#comparison tbody").inner_text()
    for title, panes in {
        "second": ["measurement", "reconstruction", "truth", "difference"],
        "molecules": ["drawing", "model"],
        "gap": ["spectrogram 0", "spectrogram 3", "seam 0", "seam 1"],
    }.items():
        page.tab.locator("input[type=search]").fill(title)
        page.row(page.tab.locator("tbody tr.row").count() - 1 if title != "molecules" else 1)
        page.tab.wait_for_timeout(500)
        for pane in panes:
            place = f'dialog [data-pane="{pane}"]'
            page.tab.locator(place).first.scroll_into_view_if_needed()
            assert page.colours(place) > (8 if pane in ("drawing", "difference") else 20), pane
        page.tab.keyboard.press("Escape")
        assert page.tab.locator("dialog[open]").count() == 0
    page.check()


def test_failures_come_first_and_columns_sort(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    flags = page.tab.locator("tbody tr.row").evaluate_all(
        "rows => rows.map(row => row.classList.contains('flagged'))"
    )
    assert sum(flags) == 6 and flags == sorted(flags, reverse=True)
    page.tab.get_by_role("combobox", name="Run").select_option("1")
    assert len(seeds(page)) == 6
    head = page.tab.locator('th button[data-column="psnr"]')
    head.click()
    assert seeds(page) == [f"seed {k}" for k in range(6)]  # that without a value is last
    assert page.tab.locator("th[aria-sort=ascending]").inner_text().startswith("psnr (dB)")
    page.tab.keyboard.press("Enter")  # the head keeps the focus
    assert seeds(page) == [f"seed {k}" for k in (4, 3, 2, 1, 0, 5)]
    page.check()


def test_filters(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    search = page.tab.locator("input[type=search]")

    def left(text: str) -> int:
        search.fill(text)
        shown = page.tab.locator("#count").inner_text()
        count = page.tab.locator("tbody tr.row").count()
        assert shown.startswith(f"{count} of 20 samples")
        return count

    assert left("") == 20
    assert left("diverged") == 3
    assert left("psnr>=20.5") == 5  # of the second run, and not the "PSNR in the gap" of another
    assert left("psnr>=20.5 seed<2") == 2
    assert left("errorgap<145") == 3
    assert left("no-such-word") == 0
    search.fill("")
    page.tab.get_by_label("flagged only").check()
    assert page.tab.locator("tbody tr.row").count() == 6
    page.tab.get_by_role("button", name="Pictures").click()
    assert page.tab.locator(".pictures button").count() == 6
    page.check()


def test_pictures_zoom_together(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    page.tab.locator("input[type=search]").fill("second reached")
    page.row(0)
    truth = page.tab.locator('dialog [data-pane="truth"]').first
    other = page.tab.locator('dialog [data-pane="measurement"]').first
    before = [each.evaluate("c => c.toDataURL()") for each in (truth, other)]
    truth.focus()
    page.tab.keyboard.press("+")
    page.tab.keyboard.press("ArrowRight")
    after = [each.evaluate("c => c.toDataURL()") for each in (truth, other)]
    assert before[0] != after[0] and before[1] != after[1]
    page.tab.keyboard.press("0")
    assert [each.evaluate("c => c.toDataURL()") for each in (truth, other)] == before
    assert page.tab.locator("dialog .panel").count() == 2  # the same seed in the other run
    page.check()


def test_a_model_turns_and_zooms(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    page.tab.locator("input[type=search]").fill("molecules")
    page.row(3)
    model = page.tab.locator('[data-pane="model"]')
    eye = "e => { const v = e._fullLayout.scene._scene.getCamera().eye; return [v.x, v.y, v.z]; }"
    first = model.evaluate(eye)
    page.tab.get_by_role("button", name="Rotate left").click()
    page.tab.wait_for_timeout(300)
    turned = model.evaluate(eye)
    size = [sum(v * v for v in each) ** 0.5 for each in (first, turned)]
    assert turned != first and size[0] == pytest.approx(size[1], rel=1e-3)
    page.tab.get_by_role("button", name="Zoom in").click()
    page.tab.wait_for_timeout(300)
    nearer = sum(v * v for v in model.evaluate(eye)) ** 0.5
    assert nearer == pytest.approx(size[0] / 1.25, rel=1e-2)
    page.check()


def test_another_version_of_a_sound_goes_on_at_the_same_place(
    everything: Path, opened: Opened
) -> None:
    page = opened(everything)
    page.tab.locator("input[type=search]").fill("gap of 100")
    page.row(0)
    player = page.tab.locator(".panel[data-panel=audio]").element_handle()
    page.tab.get_by_label("around the gap").check()  # it goes on for ever
    page.tab.get_by_role("button", name="Play or pause").click()
    page.tab.wait_for_function("p => p.player.begun !== null && p.player.now > 0", arg=player)
    state = "p => [p.player.begun, p.player.place, p.player.sources.length]"
    before = player.evaluate(state)
    assert before[2] == player.evaluate("p => p.player.panel.tracks.length") == 5
    page.tab.get_by_role("radio", name="degraded").check()
    assert player.evaluate("p => p.player.chosen") == 1
    assert player.evaluate(state) == before  # nothing began again: all play, one is heard
    page.tab.wait_for_function("p => p.player.sources[0].gain.gain.value < 0.01", arg=player)
    assert player.evaluate("p => p.player.sources[1].gain.gain.value") > 0.9
    page.tab.get_by_role("button", name="Play or pause").click()
    assert player.evaluate("p => p.player.begun") is None
    page.check()


@pytest.mark.parametrize("dark", [False, True])
def test_a_telephone_shows_it_all(everything: Path, opened: Opened, dark: bool) -> None:
    page = opened(everything, width=390, dark=dark)
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    assert page.tab.evaluate(widths) == [390, 390]
    page.tab.locator("input[type=search]").fill("second")
    page.row(0)
    assert page.tab.evaluate(widths) == [390, 390]
    body = page.tab.locator("dialog").evaluate("d => [d.scrollWidth, d.clientWidth]")
    assert body[0] <= body[1]
    paper = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(23, 22, 28)") is dark
    page.check()


def test_it_is_used_by_keyboard(everything: Path, opened: Opened) -> None:
    page = opened(everything)
    page.tab.locator("tbody tr.row button").first.focus()
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("dialog[open]")
    title = page.tab.locator("dialog h2").inner_text()
    page.tab.locator("dialog").get_by_role("button", name="Next sample").focus()
    page.tab.keyboard.press("Enter")
    assert page.tab.locator("dialog h2").inner_text() != title
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("dialog[open]").count() == 0
    page.check()


@pytest.mark.parametrize("kind", ["images", "molecules"])
def test_a_thousand_samples_are_small_and_quick(
    kind: str, images: Build, molecules: Build, opened: Opened, tmp_path: Path
) -> None:
    """At most 30 MB, 5 s of processor time to build, 3 s until the tables are there."""
    if kind == "images":
        place = images(tmp_path / "run", rows=1000, side=64)
    else:
        place = molecules(tmp_path / "run.sdf", rows=1000)
    read_all([place])  # what is imported is
    begun = time.process_time()
    file = write_page(tmp_path / "report.html", read_all([place]))
    spent = time.process_time() - begun
    assert file.stat().st_size < 30e6
    assert spent < 5
    page = opened(file)
    page.tab.wait_for_selector("tbody tr.row")
    ready = page.tab.evaluate("performance.getEntriesByName('ready')[0].startTime")  # ms
    print(f"{kind}: {file.stat().st_size / 1e6:.1f} MB, {spent:.1f} s, open after {ready:.0f} ms")
    assert ready < 3000
    assert "of 1000 samples" in page.tab.locator("#count").inner_text()
    page.check()
