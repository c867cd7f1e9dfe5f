"""What the pages name is there."""

import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def named(cell: str) -> list[str]:
    """The files that a cell of the architecture's table names: paths in `openruntime/`, then names beside the last of them."""
    found: list[str] = []
    folder = ""
    for text in re.findall(r"`([\w./{},]+)`", cell):
        group = re.fullmatch(r"(.*)\{(.*)\}(.*)", text)
        for path in ["".join(parts) for parts in product([group[1]], group[2].split(","), [group[3]])] if group else [text]:
            if not path.endswith((".py", ".sql", "/")) or path.startswith("/"):
                continue
            whole = path if path.startswith("openruntime") else f"openruntime/{path}" if "/" in path else f"{folder}/{path}"
            folder = whole.rpartition("/")[0]
            found.append(whole)
    return found


def test_the_architecture_names_files_that_are_there() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/explanation/architecture.md").read_text().splitlines() if line.startswith("| ")]
    cells = [cell for row in rows for cell in row[1:-1] if not re.match(r"\s*(?:issue \d|later)", cell)]
    files = [file for cell in cells for file in named(cell)]
    assert len(files) > 40
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_part_of_the_architecture_has_a_place() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs/explanation/architecture.md").read_text().splitlines() if line.startswith("| ")]
    empty = [part.strip() for part, place in rows[2:] if not place.strip() and not part.strip().startswith("**")]
    assert empty == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = set(LINK.findall((folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("*.md")} - {"README.md"}
