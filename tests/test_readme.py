"""The README in Chinese says what the English one says: the same parts, the same commands and output, the same links and names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
_CODE = re.compile(r"(?ms)^```.*?^```$")


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def headings(text: str) -> list[str]:
    """The levels in order: # and ##."""
    return re.findall(r"(?m)^(#+) ", _CODE.sub("", text))


def links(text: str) -> Counter[str]:
    """The targets, pictures too; the link to the other language is each one's own."""
    found = re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", text))
    return Counter(target for target in found if target not in (ENGLISH, CHINESE))


def names(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", _CODE.sub("", text)))


def parts(text: str) -> list[tuple[int, int, int, int]]:
    """Of each section: code blocks, rows of tables, items of lists, links."""
    sections = re.split(r"(?m)^## ", text)
    return [
        (
            len(_CODE.findall(one)),
            len(re.findall(r"(?m)^\|", _CODE.sub("", one))),
            len(re.findall(r"(?m)^- ", _CODE.sub("", one))),
            sum(links(one).values()),
        )
        for one in sections
    ]


@pytest.mark.parametrize("of", [headings, _CODE.findall, links, names, parts], ids=["headings", "code", "links", "names", "parts"])
def test_both_have_the_same(of: object) -> None:
    assert callable(of)
    assert of(text_of(CHINESE)) == of(text_of(ENGLISH))


def test_each_leads_to_the_other() -> None:
    assert f"]({CHINESE})" in text_of(ENGLISH) and f"]({ENGLISH})" in text_of(CHINESE)


def test_the_chinese_one_is_in_chinese() -> None:
    """No sentence was left behind in English: prose has Chinese characters in every paragraph, and full-width stops."""
    paragraphs = [one for one in re.split(r"\n{2,}", _CODE.sub("", text_of(CHINESE))) if len(one) > 60]
    assert [one for one in paragraphs if not re.search("[\u4e00-\u9fff]", one)] == []
    assert not re.search("[\u4e00-\u9fff][.,;]\\s", text_of(CHINESE)), "half-width punctuation after Chinese text"


@pytest.mark.parametrize(
    ("name", "words"), [(ENGLISH, ("Redis is optional", "litellm is an extra")), (CHINESE, ("Redis 是可选的", "litellm 是附加组件"))]
)
def test_both_say_why_redis_is_optional_and_litellm_an_extra(name: str, words: tuple[str, ...]) -> None:
    assert all(word in text_of(name) for word in words)
