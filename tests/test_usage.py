"""Usage: counts that contradict each other are an error that names both."""

from __future__ import annotations

import pytest

from gateway.usage import Sources, Usage, UsageError


@pytest.mark.parametrize("counts", [(-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1)])
def test_no_count_is_negative(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="negative"):
        Usage(*counts)


def test_reasoning_is_part_of_the_output() -> None:
    with pytest.raises(UsageError, match="reasoning 5 exceeds output 4"):
        Usage(0, 1, 4, 5)
    assert Usage(0, 1, 5, 5).output == 5


def test_the_prompt_is_hits_and_misses() -> None:
    assert Usage(3, 4, 0).prompt == 7


@pytest.mark.parametrize(
    ("sources", "reported"),
    [
        (Sources(), True),
        (Sources(cache_hit="unknown", reasoning="counted"), True),
        (Sources(cache_miss="counted"), False),
        (Sources(output="counted"), False),
        (Sources(output="unknown"), False),
    ],
)
def test_reported_means_prompt_and_output(sources: Sources, reported: bool) -> None:
    assert Usage(0, 1, 1, 0, sources).reported is reported
