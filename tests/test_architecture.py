"""The layout of the package is a test: one direction, no cycles, small modules, pure decisions.

A rule is a function from the parsed package to lines that say what is wrong and what to do. It is run on the real package, where
it must find nothing, and on small broken packages, where it must find what was put there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports from its own row or from the rows above it. A folder stands for all of its modules.
ROWS: Mapping[str, str] = {
    "words": "money usage request outcome errors clock rows",
    "facts": "notation contracts hosts calendars prices price_changes conversions routes patterns teams policy_files policies quotes",
    "decisions": "edits tokens reasoning fields limits messages thinking sanitise sse dialects host_errors meter rewrite allowance"
    " shape assemble steps standings"
    " openings router experience budgets prefix survival forecast foresight ranking witnesses gate health replicas volatile breaks"
    " calibration losses reports focus reconcile",
    "stores": "ledger keys upstream shared recall policy_watch budget_view reconciled",
    "course": "watch relay receipts stretch replies explain ports prelude attempts exchange",
    "edges": "front admin console gauges metrics notices balances families emulator demo simulate catalogues commands logs timekeeping"
    " secret_folder settings doctor request_log app cli __main__",
}
PURE = ("words", "facts", "decisions")
IMPURE = frozenset(
    "asyncio socket ssl time random secrets os pathlib threading subprocess multiprocessing concurrent tempfile shutil signal logging"
    " aiohttp httptools uvicorn uvloop starlette fastapi apsw sqlite3 watchfiles prometheus_client".split()
)
READS_FILES = {"policies", "policy_files"}
# Modules that decide about money: no float, not even for a moment.
EXACT = {"money", "usage", "prices", "conversions", "quotes", "receipts", "reports", "focus", "reconcile"}
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "subprocess"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
STARTS_PROCESSES = {"demo"}
FUNCTION_LINES, MODULE_LINES = 70, 500

# A module without a test of its own name, and why.
WITHOUT_TWIN = {
    "__main__": "one line that calls cli.main",
    "rows": "the base class of every policy row, tested through each kind of row in test_policy_files.py",
    "clock": "a protocol and two conversions of text, tested with the clocks in test_timekeeping.py",
    "ports": "a table of protocols, each tested with the module that keeps it",
    "outcome": "plain records without behaviour",
    "request": "plain records without behaviour",
    "errors": "a table of classes; test_docs.py compares it with docs/errors.md, test_respond.py with the wire",
}


@dataclass(frozen=True)
class Module:
    """One file of the package: its dotted name without `gateway.`, and its syntax tree."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def place(self) -> str:
        return f"gateway/{self.name.replace('.', '/')}.py"


Package = Mapping[str, Module]
Rule = Callable[[Package], Iterator[str]]


def parse(sources: Mapping[str, str]) -> Package:
    return {name: Module(name, ast.parse(text), text.count("\n") + 1) for name, text in sources.items()}


@cache
def package() -> Package:
    files = sorted((ROOT / "gateway").rglob("*.py"))
    return parse({".".join(file.relative_to(ROOT / "gateway").with_suffix("").parts): file.read_text() for file in files})


def row_of(module: Module) -> str | None:
    return next((row for row, names in ROWS.items() if module.top in names.split()), None)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; `from gateway import errors` is gateway.errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            base = node.module or ""
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "gateway" else base) for alias in node.names)


def ours(module: Module, modules: Package) -> Iterator[tuple[int, str]]:
    """(line, name) of the modules of this package that a module imports."""
    for line, name in imports(module.tree):
        target = name.removeprefix("gateway.")
        if target == name:
            continue
        if target not in modules and f"{target}.__init__" not in modules:
            target = target.rpartition(".")[0]  # `from gateway.front import errors` names the folder, whose modules share its row
        yield line, target


def every_module_has_a_row(modules: Package) -> Iterator[str]:
    for module in modules.values():
        if module.name != "__init__" and row_of(module) is None:
            yield f"{module.place}: is in no row; which of {', '.join(ROWS)} is it? Write it into ROWS"


def imports_point_up(modules: Package) -> Iterator[str]:
    order = list(ROWS)
    for module in modules.values():
        row = row_of(module)
        for line, target in ours(module, modules):
            other = next((name for name, members in ROWS.items() if target.partition(".")[0] in members.split()), None)
            if row and other and order.index(other) > order.index(row):
                yield f"{module.place}:{line}: {row} may not import {other} ({target})"


def no_cycles(modules: Package) -> Iterator[str]:
    graph = {module.name: {target for _, target in ours(module, modules) if target in modules} for module in modules.values()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"import cycle: {' -> '.join(error.args[1])}"


def pure_rows_are_pure(modules: Package) -> Iterator[str]:
    for module in modules.values():
        row = row_of(module)
        if row not in PURE:
            continue
        allowed = {"pathlib"} if module.name in READS_FILES else set()
        for line, name in imports(module.tree):
            top = name.partition(".")[0]
            if top in IMPURE - allowed:
                yield f"{module.place}:{line}: {row} is pure, yet imports {top}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                yield f"{module.place}:{node.lineno}: {row} is pure, yet awaits"


def no_hidden_imports(modules: Package) -> Iterator[str]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for line, name in imports(node):
                    if name.partition(".")[0] == "gateway":
                        yield f"{module.place}:{line}: {node.name} hides an import of {name}; move it to the top, or the function elsewhere"


def no_relative_imports(modules: Package) -> Iterator[str]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                yield f"{module.place}:{node.lineno}: relative import; write it from gateway"


def sizes(modules: Package) -> Iterator[str]:
    for module in modules.values():
        if module.lines > MODULE_LINES:
            yield f"{module.place}: {module.lines} lines, {MODULE_LINES} at most; which second noun is in it?"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{module.place}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} at most"


def no_dangerous_calls(modules: Package) -> Iterator[str]:
    for module in modules.values():
        banned = FORBIDDEN_IMPORTS - ({"subprocess"} if module.top in STARTS_PROCESSES else set())
        for line, name in imports(module.tree):
            if name.partition(".")[0] in banned:
                yield f"{module.place}:{line}: {name} is forbidden here"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
                yield f"{module.place}:{node.lineno}: {ast.unparse(node.func)} is forbidden"


def no_global_state(modules: Package) -> Iterator[str]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Global):
                yield f"{module.place}:{node.lineno}: global {', '.join(node.names)}; hand it in instead"


def no_float_near_money(modules: Package) -> Iterator[str]:
    for module in modules.values():
        if module.top not in EXACT:
            continue
        for node in ast.walk(module.tree):
            if (isinstance(node, ast.Name) and node.id == "float") or (isinstance(node, ast.Constant) and isinstance(node.value, float)):
                yield f"{module.place}:{node.lineno}: a float near money"


def streams_are_bytes(modules: Package) -> Iterator[str]:
    """str.splitlines cuts at U+2028 and U+0085, which are lawful inside a JSON text."""
    for module in modules.values():
        if row_of(module) not in ("decisions", "course") and module.top not in ("upstream", "front"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr == "splitlines":
                yield f"{module.place}:{node.lineno}: splitlines; split on CR and LF bytes"


def the_emulator_stands_alone(modules: Package) -> Iterator[str]:
    """Its bill checks ours, so it may share no code with what it checks; the clock's protocol is the one exception."""
    for module in modules.values():
        if module.top != "emulator":
            continue
        for line, target in ours(module, modules):
            if target.partition(".")[0] not in ("emulator", "clock"):
                yield f"{module.place}:{line}: the emulator may not use {target}"


RULES: tuple[Rule, ...] = (
    every_module_has_a_row,
    imports_point_up,
    no_cycles,
    pure_rows_are_pure,
    no_hidden_imports,
    no_relative_imports,
    sizes,
    no_dangerous_calls,
    no_global_state,
    no_float_near_money,
    streams_are_bytes,
    the_emulator_stands_alone,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(package())) == []


LONG = "def f():\n" + "    x = 1\n" * FUNCTION_LINES

BROKEN: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (every_module_has_a_row, {"novelty": ""}, "gateway/novelty.py: is in no row"),
    (imports_point_up, {"money": "from gateway.prices import Card", "prices": ""}, "money.py:1: words may not import facts (prices)"),
    (imports_point_up, {"relay": "from gateway import metrics", "metrics": ""}, "course may not import edges (metrics)"),
    (imports_point_up, {"sse": "from gateway.front import wire", "front.__init__": ""}, "decisions may not import edges (front)"),
    (no_cycles, {"money": "from gateway.usage import A", "usage": "from gateway.money import B"}, "import cycle: "),
    (pure_rows_are_pure, {"sse": "import time"}, "gateway/sse.py:1: decisions is pure, yet imports time"),
    (pure_rows_are_pure, {"prices": "from pathlib import Path"}, "facts is pure, yet imports pathlib"),
    (pure_rows_are_pure, {"router": "async def plan(): ..."}, "decisions is pure, yet awaits"),
    (no_hidden_imports, {"app": "def f():\n    from gateway.money import Money"}, "gateway/app.py:2: f hides an import of gateway.money"),
    (no_relative_imports, {"app": "from .money import Money"}, "gateway/app.py:1: relative import"),
    (sizes, {"app": LONG}, "gateway/app.py:1: f has 71 lines"),
    (sizes, {"app": "\n" * MODULE_LINES}, "gateway/app.py: 501 lines"),
    (no_dangerous_calls, {"app": "import subprocess"}, "subprocess is forbidden here"),
    (no_dangerous_calls, {"app": "eval('1')"}, "gateway/app.py:1: eval is forbidden"),
    (no_dangerous_calls, {"policies": "yaml.load(x)"}, "yaml.load is forbidden"),
    (no_global_state, {"app": "def f():\n    global x\n    x = 1"}, "gateway/app.py:2: global x"),
    (no_float_near_money, {"money": "x = 0.1"}, "gateway/money.py:1: a float near money"),
    (no_float_near_money, {"receipts": "x = float(y)"}, "gateway/receipts.py:1: a float near money"),
    (streams_are_bytes, {"sse": "x.splitlines()"}, "gateway/sse.py:1: splitlines"),
    (the_emulator_stands_alone, {"emulator.book": "from gateway.prices import Card", "prices": ""}, "the emulator may not use prices"),
)


@pytest.mark.parametrize(("rule", "sources", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_package_is_found(rule: Rule, sources: dict[str, str], words: str) -> None:
    assert words in "\n".join(rule(parse(sources)))


def test_a_good_package_is_left_alone() -> None:
    good = parse({"money": "import decimal", "prices": "from gateway.money import Rate", "demo.stage": "import subprocess"})
    assert [line for rule in RULES for line in rule(good)] == []


def test_every_module_has_a_test_of_its_name() -> None:
    """`front/auth.py` is tested by test_auth.py, test_front_auth.py or its folder's test_front.py."""
    present = {file.stem for file in (ROOT / "tests").glob("test_*.py")}
    bare = []
    for module in package().values():
        parts = module.name.split(".")
        wanted = {f"test_{parts[-1]}", f"test_{parts[0]}", "test_" + "_".join(parts)}
        if parts[-1] != "__init__" and module.name not in WITHOUT_TWIN and not wanted & present:
            bare.append(f"{module.place}: has no {' or '.join(sorted(wanted))}")
    assert bare == []


def test_the_exceptions_are_still_needed() -> None:
    present = {file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py")}
    assert sorted(set(WITHOUT_TWIN) & present) == [], "has a test by now: take it off the list"
    assert sorted(name for name in WITHOUT_TWIN if name not in package()) == [], "is gone: take it off the list"


def test_every_row_names_modules_that_exist() -> None:
    tops = {module.top for module in package().values()}
    assert sorted(name for names in ROWS.values() for name in names.split() if name not in tops) == []
