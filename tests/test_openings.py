"""Openings: what stands for every request is worked out once, and anew where a row begins or ends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest

from gateway.openings import Openings
from gateway.policies import Policies, default_folder, load

POLICIES = load(default_folder())
OTHER = load(default_folder())


def whys(openings: Openings, route: str, at: str, policies: Policies = POLICIES) -> dict[str, str]:
    found = policies.route(route)
    assert found is not None
    return {one.target.name: one.why for one in openings.of(found, policies, datetime.fromisoformat(at)).all}


def test_a_host_without_an_account_says_what_it_needs() -> None:
    found = whys(Openings({"deepseek": "USD"}), "deepseek-flash", "2026-11-20T02:00:00+00:00")
    assert found["deepseek/deepseek-flash"] == ""
    assert found["novita/deepseek/deepseek-v4.1-flash"].endswith("not configured here (set NOVITA_API_KEY)")


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("2025-01-19T23:59:59+00:00", "not served there yet"),
        ("2025-01-20T00:00:00+00:00", ""),
        ("2026-07-24T15:58:59+00:00", ""),
        ("2026-07-24T15:59:00+00:00", "but you passed deepseek-reasoner."),
    ],
)
def test_a_remembered_answer_ends_with_its_row(at: str, why: str) -> None:
    # Asked at each instant in turn, so that each but the first has an older answer to forget.
    openings = Openings({"deepseek": "USD"})
    for earlier in ("2025-01-01T00:00:00+00:00", "2025-06-01T00:00:00+00:00", "2026-07-01T00:00:00+00:00"):
        whys(openings, "deepseek/deepseek-reasoner", earlier)
    found = whys(openings, "deepseek/deepseek-reasoner", at)["deepseek/deepseek-reasoner"]
    assert found.endswith(why) and bool(found) == bool(why)


def test_another_snapshot_is_looked_at_anew() -> None:
    openings, instant = Openings({"deepseek": "USD"}), datetime.fromisoformat("2026-11-20T02:00:00+00:00")

    def served(policies: Policies) -> object:
        route = policies.route("deepseek-flash")
        assert route is not None
        return openings.of(route, policies, instant).all[0].deployment

    assert served(POLICIES) is served(POLICIES)
    assert served(OTHER) is not served(POLICIES)


def test_what_a_route_fixes_is_fixed() -> None:
    currencies: Mapping[str, str] = {"deepseek": "USD"}
    route = POLICIES.route("deepseek-chat")
    assert route is not None
    found = Openings(currencies).of(route, POLICIES, datetime.fromisoformat("2026-11-20T02:00:00+00:00"))
    assert [one.deployment.thinking for one in found.all if one.deployment and one.target.host == "deepseek"] == ["off"]
