"""The Python of the guides runs, block after block, and their assertions hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("guide", "count"),
    [("inverse-problems", 2), ("costs", 2), ("methods", 1), ("comparing", 2), ("blackbox", 3)],
)
def test_blocks_run(guide: str, count: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{guide}.md").read_text(), re.DOTALL)
    assert len(blocks) == count
    session: dict[str, Any] = {"__name__": "__main__"}  # dataclasses look their module up
    for block in blocks:
        exec(block, session)


def test_every_link_of_a_page_leads_somewhere() -> None:
    root = DOCS.parent
    for page in [*root.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_leads_nowhere_outside_of_itself() -> None:
    """The pages of docs/ are a site of their own: `make docs` refuses a link that leaves them."""
    for page in DOCS.glob("**/*.md"):
        assert not re.findall(r"\]\(\.\./\.\./|\]\(\.\./(?!\w+\.md)", page.read_text()), page


def test_the_readme_is_a_page_and_not_a_book() -> None:
    text = (DOCS.parent / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"\d+(?:[.,]\d+)*", text)) <= 40
