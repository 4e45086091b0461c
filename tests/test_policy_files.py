"""Policy files: YAML as people write it, and the line of every problem."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from gateway.policy_files import Entry, Problems, digest_of, kind_of, read_folder, rows_of
from gateway.rows import Instant, Row

KINDS = ("fruit", "trees")


class Peel(Row):
    colour: Literal["green", "red"] = "green"
    thick: bool = False


class Fruit(Row):
    fruit: str
    weight: int | None = None
    picked: Instant | None = None
    peel: Peel = Peel()
    names: str | tuple[str, ...] = ()
    peels: tuple[str | Peel, ...] = ()
    few: tuple[str, ...] = ("one",)


def read(text: str) -> tuple[list[Entry[Fruit]], tuple[str, ...]]:
    problems = Problems()
    return rows_of("fruit.yaml", text.encode(), Fruit, problems), problems.lines()


def test_a_file_is_a_list_of_rows_or_one_row_or_empty() -> None:
    assert [entry.row.fruit for entry in read("- fruit: apple\n- fruit: pear\n")[0]] == ["apple", "pear"]
    assert [entry.row.fruit for entry in read("fruit: apple\n")[0]] == ["apple"]
    assert read("# nothing yet\n") == ([], ())


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "2026-01-01", "1_000", "0x10", "1:30", '"5"', "'true'", "|-\n  a"])
def test_what_looks_like_a_text_is_a_text(text: str) -> None:
    entries, problems = read(f"fruit: {text}\n")

    assert problems == ()
    assert entries[0].row.fruit == text.strip("\"'").removeprefix("|-\n  ")


def test_numbers_booleans_nulls_and_instants_have_their_types() -> None:
    entry = read("{fruit: a, weight: 65536, picked: 2026-08-16T18:00:00+02:00, peel: {thick: true}}")[0][0]

    assert (entry.row.weight, entry.row.peel.thick) == (65536, True)
    assert entry.row.picked is not None
    assert entry.row.picked.isoformat() == "2026-08-16T16:00:00+00:00"
    assert read("{fruit: a, weight: null}")[0][0].row.weight is None


def test_anchors_may_be_used_twice() -> None:
    entries, problems = read("- fruit: a\n  few: &few [x, y]\n- fruit: b\n  few: *few\n")

    assert problems == ()
    assert entries[1].row.few == ("x", "y")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fruit: a\nwieght: 5\n", "2: `wieght` is not a known key. Hint: did you mean `weight`?"),
        (
            "fruit: a\nq: 5\n",
            "2: `q` is not a known key. Hint: known here are fruit, weight, picked, peel, names, peels, few",
        ),
        ("fruit: a\npeel:\n  thick: true\n  color: red\n", "4: `color` is not a known key. Hint: did you mean `colour`?"),
        ("- weight: 3\n", "1: `fruit` is missing"),
        ("\n- # the first\n  weight: 3\n", "3: `fruit` is missing"),
        ("fruit: a\nweight: heavy\n", '2: `weight`: should be a valid integer, not "heavy"'),
        ('fruit: a\nweight: "5"\n', '2: `weight`: should be a valid integer, not "5"'),
        ("fruit: a\nweight: 5.0\n", "2: `weight`: should be a valid integer, not 5.0"),
        ("fruit: a\nweight: true\n", "2: `weight`: should be a valid integer, not true"),
        ("fruit: 0.66\n", '1: `fruit`: should be a text, not the number 0.66. Hint: write it in quotes, "0.66"'),
        ("fruit: a\npeel: {thick: yes}\n", '2: `peel.thick`: should be a valid boolean, not "yes"'),
        ("fruit: a\npeel: {colour: rad}\n", "2: `peel.colour`: should be 'green' or 'red', not \"rad\""),
        ("fruit: a\npicked: 2026-01-01T00:00:00\n", "2: `picked`: has no time zone: write it as 2026-11-20T02:00:00Z"),
        ("fruit: a\npicked: 0001-01-01T00:00:00+14:00\n", "2: `picked`: lies outside the years 1 to 9999 in UTC"),
        ("fruit: a\nfew:\n  - x\n  - 5\n", '4: `few.1`: should be a text, not the number 5. Hint: write it in quotes, "5"'),
        ("fruit: a\nnames: 5\n", "2: `names`: should be a text or a valid array, not 5"),
        ("fruit: a\npeels:\n  - x\n  - {thik: true}\n", "4: `thik` is not a known key. Hint: did you mean `thick`?"),
        ("fruit: a\nweight: 3\nfruit: b\n", "3: `fruit` stands twice, first on line 1. Hint: keep one"),
        ("fruit: a\npeel: {thick: true, thick: false}\n", "2: `thick` stands twice, first on line 2. Hint: keep one"),
        ("fruit: [a\n", "2: is not YAML: did not find expected ',' or ']'"),
        ("fruit: a\n---\nfruit: b\n", "2: is not YAML: but found another document"),
        ("fruit: a\n\tweight: 3\n", "2: is not YAML: found a tab character that violates indentation"),
        ("just text\n", '1: `the row`: should be an object, not "just text"'),
    ],
)
def test_a_problem_has_its_line_and_remedy(text: str, problem: str) -> None:
    entries, problems = read(text)

    assert problems == (f"fruit.yaml:{problem}",)
    assert entries == []


def test_every_problem_of_a_file_is_reported_in_the_order_of_its_lines() -> None:
    entries, problems = read("- {fruit: a, weight: x}\n- fruit: b\n- {fruit: 5, peel: {thick: 1, q: 2}}\n")

    assert [entry.row.fruit for entry in entries] == ["b"]
    assert [line.split(":")[1] for line in problems] == ["1", "3", "3", "3"]


@pytest.mark.parametrize("data", [b"fruit: \xff\n", b"fruit: \x00\n"])
def test_bytes_that_are_no_text_are_a_problem(data: bytes) -> None:
    problems = Problems()

    assert rows_of("fruit.yaml", data, Fruit, problems) == []
    assert problems.lines()[0].startswith("fruit.yaml:1: is not YAML: ")


def test_a_file_that_contains_itself_is_a_problem() -> None:
    assert any("nested too deeply" in line for line in read("fruit: a\nnames: &loop [*loop]\n")[1])


def test_an_entry_knows_the_line_of_each_of_its_parts() -> None:
    entry = read("- fruit: a\n\n  few:\n    - x\n    - y\n  peel:\n    thick: true\n")[0][0]

    assert entry.place() == "fruit.yaml:1"
    assert [entry.line("few"), entry.line("few", 1), entry.line("peel", "thick")] == [3, 5, 7]
    assert entry.line("peel", "colour") == 6


# The folder


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_folder_gives_the_files_of_every_kind(tmp_path: Path) -> None:
    problems = Problems()
    write(tmp_path, fruit__b_yaml="2", fruit__a_yaml="1", trees_yaml="3", README="no", fruit__README="no")

    files = read_folder(tmp_path, KINDS, problems)

    assert files == {"fruit/a.yaml": b"1", "fruit/b.yaml": b"2", "trees.yaml": b"3"}
    assert problems.lines() == ()
    assert [kind_of(name) for name in files] == ["fruit", "fruit", "trees"]


def test_hidden_names_are_left_alone(tmp_path: Path) -> None:
    problems = Problems()
    write(tmp_path, **{"..data__fruit__a_yaml": "1", "fruit__.a_yaml": "2", ".fruit_yaml": "3"})

    assert read_folder(tmp_path, KINDS, problems) == {}
    assert problems.lines() == ()


@pytest.mark.parametrize("name", ["friut/a.yaml", "fruit/a.yml", "friut.yaml", "fruit/more/a.yaml"])
def test_a_file_that_would_not_be_read_is_a_problem(tmp_path: Path, name: str) -> None:
    problems = Problems()
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("fruit: a")

    assert read_folder(tmp_path, KINDS, problems) == {}
    expected = name if name.count("/") < 2 else "fruit/more"
    assert problems.lines() == (f"{expected}:1: would not be read. Hint: policies are fruit, trees, each as KIND.yaml or KIND/NAME.yaml",)


def test_a_folder_that_is_not_there_is_a_problem_with_its_remedy(tmp_path: Path) -> None:
    problems = Problems()

    assert read_folder(tmp_path / "nope", KINDS, problems) == {}
    assert "FAREGATE_POLICIES" in problems.lines()[0]


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    problems = Problems()
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "a.yaml").symlink_to(tmp_path / "gone.yaml")

    assert read_folder(tmp_path, KINDS, problems) == {}
    assert problems.lines() == ("fruit/a.yaml:1: cannot be read: No such file or directory",)


FILES = {"a.yaml": b"1", "b.yaml": b"2"}


def test_a_digest_is_the_same_whatever_the_order() -> None:
    assert digest_of(FILES) == digest_of(dict(reversed(FILES.items())))
    assert len(digest_of(FILES)) == 16
    assert int(digest_of(FILES), 16)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a.yaml": b"1"},
        {"a.yaml": b"2", "b.yaml": b"1"},
        {"a.yaml": b"1", "c.yaml": b"2"},
        {"a.yaml": b"1 ", "b.yaml": b"2"},
        {"a.yaml": b"1b.yaml\x002"},
    ],
)
def test_a_digest_changes_with_every_path_and_byte(files: dict[str, bytes]) -> None:
    assert digest_of(files) != digest_of(FILES)
