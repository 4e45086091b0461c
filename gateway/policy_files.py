"""Policy files: YAML to checked rows; every problem names its file, line and remedy.

What lives here: reading the folder, YAML nodes with their lines, one row against its schema.
What does not: whether rows agree with each other (policies).

Plain scalars follow YAML 1.2: only true and false are booleans (`on` is a text), dates stay texts for the schema to read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.notation import decimals
from gateway.rows import Row

Loc = tuple[str | int, ...]
R = TypeVar("R", bound=Row)
_NULLS = ("", "~", "null")
_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?")
_SUBJECT = re.compile(r"^\w+ should")
_DEPTH = 20


class Problems:
    """The problems found so far; `lines` states each once, in the order of files and lines."""

    def __init__(self) -> None:
        self._found: set[tuple[str, int, str]] = set()

    def add(self, file: str, line: int, text: str) -> None:
        self._found.add((file, line, text))

    def __len__(self) -> int:
        return len(self._found)

    def lines(self) -> tuple[str, ...]:
        return tuple(f"{file}:{line}: {text}" for file, line, text in sorted(self._found))


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """A row and the place where it is written."""

    row: R
    file: str
    node: yaml.Node

    def line(self, *path: str | int) -> int:
        """The line of a key or item of this row, or of the nearest thing around it that is written."""
        return _line(_walk(self.node, path)[0])

    def place(self) -> str:
        return f"{self.file}:{self.line()}"

    def report(self, problems: Problems, text: str, *path: str | int) -> None:
        problems.add(self.file, self.line(*path), text)


# Reading the folder


def read_folder(folder: Path, kinds: Iterable[str], problems: Problems) -> dict[str, bytes]:
    """The bytes of every policy file by its path in the folder: KIND.yaml and KIND/*.yaml; a YAML file elsewhere is a problem.

    Names that begin with a dot are left alone: a mounted ConfigMap keeps its versions there.
    """
    files: dict[str, bytes] = {}
    for path in _visible(folder, folder, problems):
        if path.is_dir():
            found = _visible(folder, path, problems)
        else:
            found = [path]
        for file in found:
            _read(folder, file, tuple(kinds), files, problems)
    return files


def _visible(folder: Path, path: Path, problems: Problems) -> list[Path]:
    try:
        return sorted(item for item in path.iterdir() if not item.name.startswith("."))
    except OSError as error:
        problems.add(str(path), 1, f"cannot be read: {error.strerror}. Hint: FAREGATE_POLICIES names the folder of policies")
        return []


def _read(folder: Path, file: Path, kinds: tuple[str, ...], files: dict[str, bytes], problems: Problems) -> None:
    name = _name(folder, file)
    if file.suffix not in (".yaml", ".yml") and not file.is_dir():
        return
    kind = kind_of(name)
    if file.is_dir() or file.suffix == ".yml" or kind not in kinds:
        problems.add(name, 1, f"would not be read. Hint: policies are {', '.join(kinds)}, each as KIND.yaml or KIND/NAME.yaml")
        return
    try:
        files[name] = file.read_bytes()
    except OSError as error:
        problems.add(name, 1, f"cannot be read: {error.strerror}")


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def kind_of(name: str) -> str:
    """The kind of rows in a file: contracts/deepseek.yaml -> contracts."""
    return name.partition("/")[0].removesuffix(".yaml")


def digest_of(files: Mapping[str, bytes]) -> str:
    """16 hex digits that change with any path or byte of the files, and with nothing else."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return whole.hexdigest()[:16]


# From YAML to rows


def rows_of(file: str, data: bytes, model: type[R], problems: Problems) -> list[Entry[R]]:
    """The rows of one file (a list of them, or a single one) that are right in themselves; the others are problems."""
    try:
        node = yaml.compose(data.decode(), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        problems.add(file, mark.line + 1 if mark else 1, f"is not YAML: {getattr(error, 'problem', None) or error}")
        return []
    nodes = [] if node is None else node.value if isinstance(node, yaml.SequenceNode) else [node]
    entries = (_entry(file, node, model, problems) for node in nodes)
    return [entry for entry in entries if entry]


def _entry(file: str, node: yaml.Node, model: type[R], problems: Problems) -> Entry[R] | None:
    before = len(problems)
    plain = _Plain(file, problems).value(node, 0)
    try:
        # In JSON mode a strict schema still reads lists as tuples and texts as dates, and nothing else as what it is not.
        row = model.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        for path, text in _explain(error.errors(), node, model):
            problems.add(file, _line(_walk(node, path)[0]), text)
        return None
    entry = Entry(row, file, node)
    for path, text in row.problems():
        entry.report(problems, text, *path)
    return entry if len(problems) == before else None


class _Plain:
    """Turns YAML nodes into plain JSON values, and reports what YAML itself would let pass."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.file, self.problems = file, problems

    def value(self, node: yaml.Node, depth: int) -> Any:
        if depth > _DEPTH:
            self.problems.add(self.file, _line(node), "is nested too deeply")
            return None
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self.mapping(node, depth)

    def mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, item in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name in values:
                self.problems.add(self.file, _line(key), f"`{name}` stands twice, first on line {lines[name]}. Hint: keep one")
            values[name] = self.value(item, depth + 1)
            lines.setdefault(name, _line(key))
        return values


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


# From the schema's errors to problems


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _walk(node: yaml.Node, path: Loc) -> tuple[yaml.Node, Loc]:
    """The node of a path's last part that is written (a key's own node), and the parts that are."""
    found = node
    parts: list[str | int] = []
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, item) for key, item in node.value if key.value == part), None)
            if pair:
                found, node = pair
                parts.append(part)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node = node.value[part]
            parts.append(part)
    return found, tuple(parts)


def _explain(errors: list[ErrorDetails], node: yaml.Node, model: type[Row]) -> list[tuple[Loc, str]]:
    """One text for each place; of the alternatives of a union only those that came furthest."""
    texts: dict[Loc, list[str]] = {}
    for error in errors:
        path = _walk(node, error["loc"])[1]
        texts.setdefault(path, []).append(_text(error, path, model, node))
    kept = [path for path in texts if _own(errors, path) or not any(_inside(other, path) for other in texts)]
    return [(path, text) for path in kept for text in _merged(texts[path])]


def _inside(other: Loc, path: Loc) -> bool:
    return len(other) > len(path) and other[: len(path)] == path


def _own(errors: list[ErrorDetails], path: Loc) -> bool:
    """Whether a place has an error of its own, beside those of a union's alternatives (whose paths are longer)."""
    mine = [error["type"] for error in errors if error["loc"] == path]
    missing = any(error["type"] == "missing" and error["loc"][:-1] == path for error in errors)
    # An item that is wrong makes its list too short as well: the item says it all.
    return missing or any(kind != "too_short" for kind in mine)


def _merged(texts: list[str]) -> list[str]:
    marker = ": should be "
    choices = [text for text in texts if marker in text]
    if len(choices) < 2:
        return texts
    where, not_ = choices[0].partition(marker)[0], choices[-1].rpartition(", not ")[2].partition(". Hint")[0]
    kinds = dict.fromkeys(text.partition(marker)[2].partition(", not ")[0] for text in choices)
    return [f"{where}{marker}{' or '.join(kinds)}, not {not_}", *(text for text in texts if text not in choices)]


def _text(error: ErrorDetails, path: Loc, model: type[Row], node: yaml.Node) -> str:
    loc, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        key = str(loc[-1])
        if _FLOAT.fullmatch(key):
            return (
                f"`{key}` is not a known key. Hint: between braces a comma ends a value: write the number before it with a dot, in quotes"
            )
        return f"`{key}` is not a known key. {suggest(key, keys_of(model, loc[:-1]))}"
    if kind == "missing":
        return f"`{loc[-1]}` is missing"
    where = ".".join(str(part) for part in path) or "the row"
    said = str(error["ctx"]["error"]) if kind == "value_error" else _expected(error, _written(node, path))
    return f"`{where}`: {said}"


def _expected(error: ErrorDetails, written: str) -> str:
    value, said = error["input"], _SUBJECT.sub("should", error["msg"])
    if error["type"] == "string_type" and isinstance(value, (int, float)):
        text = written or str(value)
        meant = decimals(text) or (str(value),)
        return f"should be a text, not the number {text}. Hint: write it in quotes, " + " or ".join(f'"{guess}"' for guess in meant)
    return said if isinstance(value, (dict, list)) else f"{said}, not {json.dumps(value)}"


def _written(node: yaml.Node, path: Loc) -> str:
    """A number as its author wrote it, "" for what is none; with the rest that a comma between braces cut off: `{amount: 5,00}`."""
    text = ""
    for part in path:
        text = ""
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            index = next(index for index, (key, _) in enumerate(node.value) if key.value == part)
            rest = takewhile(_cut_off, node.value[index + 1 :])
            node, text = node.value[index][1], "".join(f",{key.value}" for key, _ in rest)
    return f"{node.value}{text}" if isinstance(node, yaml.ScalarNode) and _FLOAT.fullmatch(node.value) else ""


def _cut_off(pair: tuple[yaml.Node, yaml.Node]) -> bool:
    return all(isinstance(node, yaml.ScalarNode) for node in pair) and bool(_FLOAT.fullmatch(pair[0].value)) and not pair[1].value


def suggest(key: str, known: list[str]) -> str:
    """A hint for a key that is not known: the nearest one that is, else all of them."""
    close = get_close_matches(key, known, n=1)
    return f"Hint: did you mean `{close[0]}`?" if close else f"Hint: known here are {', '.join(known)}"


def keys_of(model: type[Row], path: Loc) -> list[str]:
    """The keys that a schema knows at a path."""
    row = model
    for part in path:
        field = next((field for name, field in row.model_fields.items() if part in (name, field.alias)), None)
        row = (_row_in(field.annotation) or row) if field else row
    return [field.alias or name for name, field in row.model_fields.items()]


def _row_in(annotation: Any) -> type[Row] | None:
    if inspect.isclass(annotation) and issubclass(annotation, Row):
        return annotation
    return next((row for part in get_args(annotation) if (row := _row_in(part))), None)
