"""The documents name everything that a user can set, see or meet, nothing that is not there, and no link leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import ByteSize

from gateway import errors
from gateway.cli import VERBS
from gateway.families import FAMILIES
from gateway.policies import schemas
from gateway.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "policies").rglob("*.md")])
GROUPS = {"base_url": "FAREGATE_BASE_URL_<HOST>", "currency": "FAREGATE_CURRENCY_<HOST>"}
# Not settings: the names that Kubernetes may put beside them.
NOT_SETTINGS = re.compile(r"FAREGATE_(SERVICE|PORT)_\w+")


@cache
def text_of(*folders: str) -> str:
    return "\n".join(page.read_text() for page in PAGES if not folders or str(page.relative_to(ROOT)).startswith(folders))


def rows(page: str) -> Iterator[list[str]]:
    """The cells of every table row of a page, back ticks taken off."""
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert f"`{GROUPS.get(name, f'FAREGATE_{name.upper()}')}`" in text_of("docs/settings.md")


def test_only_real_settings_are_described() -> None:
    """A page may also name a group of settings (`FAREGATE_TIMEOUT_…`) or one host's (`FAREGATE_BASE_URL_NOVITA`)."""
    real = [f"FAREGATE_{name.upper()}" for name in Settings.model_fields]
    named = set(re.findall(r"\bFAREGATE_[A-Z_]+", NOT_SETTINGS.sub("", text_of())))
    known = {name for name in named if name in real or any(one.startswith(name) for one in real if name.endswith("_"))}
    assert sorted(name for name in named - known if not name.startswith(("FAREGATE_BASE_URL_", "FAREGATE_CURRENCY_"))) == []


def test_the_defaults_in_the_table_are_the_real_ones() -> None:
    wrong = []
    for cells in rows("docs/settings.md"):
        name = cells[0].removeprefix("FAREGATE_").lower()
        default = Settings.model_fields[name].default if name in Settings.model_fields else None
        if isinstance(default, str | int | float | Path) and not isinstance(default, ByteSize) and cells[1] != str(default):
            wrong.append(f"{cells[0]}: the page says {cells[1]}, the code {default}")
    assert wrong == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.name))
def test_every_metric_is_described(family: object) -> None:
    assert f"`{getattr(family, 'name')}" in text_of("docs/")  # noqa: B009


def test_only_real_metrics_are_described() -> None:
    real = {family.name for family in FAMILIES}
    real |= {f"{family.name}_{part}" for family in FAMILIES if family.kind == "histogram" for part in ("bucket", "sum", "count")}
    named = {name for name in re.findall(r"\bfaregate_[a-z_]+[a-z]\b", text_of())}
    assert sorted(named - real) == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_described(verb: str) -> None:
    assert re.search(rf"\bfaregate {verb}\b", text_of())


def test_only_real_commands_are_described() -> None:
    named = set(re.findall(r"`faregate ([a-z][a-z-]+)", text_of()))
    assert sorted(named - set(VERBS)) == []


def every_error() -> list[type[errors.FaregateError]]:
    found, todo = [], [errors.FaregateError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: str(kind.__name__))
def test_every_error_is_described_with_its_status(kind: type[errors.FaregateError]) -> None:
    assert [str(kind.status), kind.code] in [cells[:2] for cells in rows("docs/errors.md")]


@pytest.mark.parametrize(("kind", "schema"), schemas().items(), ids=schemas())
def test_every_key_of_a_policies_file_is_described(kind: str, schema: dict[str, object]) -> None:
    properties = schema.get("properties") or {}
    assert isinstance(properties, dict)
    section = text_of("docs/policies.md").partition(f"\n## {kind}")[2].partition("\n## ")[0]
    assert section, f"docs/policies.md has no section {kind}"
    assert [key for key in properties if not re.search(rf"`{key}\b", section)] == []


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page make, as code hosts do."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```", "", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert sorted(set(re.findall(r"`make ([a-z-]+)", page.read_text())) - targets) == []


def test_no_file_names_a_machine_or_a_registry() -> None:
    hosts = ("pypi.or" + "g", "pythonhosted.or" + "g", "registry.npm" + "js", "deb.debian.or" + "g")  # in two parts: this file is read too
    machine = re.compile("|".join([*map(re.escape, hosts), r"(?<![\w.~}])/(?:wor" + r"k|roo" + r"t)/"]))
    skipped = {".git", ".venv", ".bench", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "data"}
    named: list[str] = []
    for file in ROOT.rglob("*"):
        if skipped & set(file.relative_to(ROOT).parts) or not file.is_file() or file.suffix in {".db", ".gguf", ".png"}:
            continue
        found = machine.search(file.read_text(errors="replace"))
        if found:
            named.append(f"{file.relative_to(ROOT)}: {found[0]}")
    assert named == []
