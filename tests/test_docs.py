"""What the documentation promises exists, and what exists is documented."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import zlpr

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOMS = (
    "losses",
    "decision",
    "activations",
    "entropy",
    "nn",
    "optim",
    "optim.schedules",
    "perturb",
    "rules",
    "models",
    "validation",
)
NAMES = [(room, name) for room in ROOMS for name in importlib.import_module(f"zlpr.{room}").__all__]
SOURCES = sorted(Path(zlpr.__file__).parent.rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]


def sections(page):
    """The text under each heading of the second level."""
    parts = re.split(r"^## (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("room", "name"), NAMES, ids=[f"{room}.{name}" for room, name in NAMES])
def test_public_name_has_its_line_in_the_reference(room, name):
    assert re.search(rf"^\| `{name}\b", sections(DOCS / "reference.md")[f"zlpr.{room}"], re.MULTILINE)


def test_reference_has_a_section_for_every_room():
    rooms = {module.name for module in pkgutil.iter_modules(zlpr.__path__) if not module.name.startswith("_")}
    assert {f"zlpr.{room}" for room in rooms - {"cli"}} <= set(sections(DOCS / "reference.md"))


def test_pages_named_in_the_source_exist():
    named = {
        page for path in SOURCES for page in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))
    }
    assert "docs/derivations/zlpr.md" in named
    assert not [page for page in named if not (ROOT / page).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
