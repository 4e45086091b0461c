"""Price imports: decimals exactly as they are written, windows minute by minute, history only appended to."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cli
from gateway.catalogues import litellm_map, openrouter
from gateway.catalogues.offers import WEEK, Flagged, Offer, Shape, Week, shape_of, week_of, week_of_card
from gateway.catalogues.proposal import Terms, appended, review, stated_in
from gateway.clock import parse_instant
from gateway.commands import prices
from gateway.money import Rates, decimal_text
from gateway.policies import Policies, default_folder, load
from gateway.prices import DAYS

FLASH = {
    "litellm_provider": "deepseek",
    "mode": "chat",
    "input_cost_per_token": "3e-07",
    "cache_read_input_token_cost": "6e-09",
    "output_cost_per_token": "1.2e-06",
    "off_peak_pricing": {
        "input_cost_per_token": "1.5e-07",
        "output_cost_per_token": "6e-07",
        "cache_read_input_token_cost": "3e-09",
        "windows": [
            {"hours_utc": ["00:00-01:00", "04:00-06:00", "10:00-00:00"], "weekdays": [1, 2, 3, 4, 5]},
            {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
        ],
    },
}
MODELS = {("deepseek", "deepseek-flash"): "deepseek-flash", ("novita", "deepseek/deepseek-r1-0528"): "deepseek/deepseek-r1-0528"}


def written(value: Any) -> str:
    """JSON in which every text that is a number stands as that number, digit for digit."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str) and value[:1].isdigit() and ":" not in value and value.count("-") < 2:
        return value
    return json.dumps(value)


def one(entry: dict[str, Any], key: str = "deepseek/deepseek-flash", round_noise: bool = False) -> Offer | Flagged:
    found = list(litellm_map.offers(written({"sample_spec": {}, key: entry}), MODELS, round_noise))
    assert len(found) == 1
    return found[0]


def rates(text: str) -> Rates:
    """hit/miss/output per million."""
    hit, miss, output = (round(float(part) * 10**9) for part in text.split("/"))
    return Rates(hit, miss, output)


def at(week: Week, instant: str) -> Rates:
    moment = parse_instant(instant)
    minute = (moment.weekday() * 24 + moment.hour) * 60 + moment.minute
    return next(found for start, found in reversed(week) if start <= minute)


PEAK, OFF = rates("0.006/0.3/1.2"), rates("0.003/0.15/0.6")


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        ("2026-11-20T00:59:00Z", OFF),
        ("2026-11-20T01:00:00Z", PEAK),
        ("2026-11-20T03:59:00Z", PEAK),
        ("2026-11-20T04:00:00Z", OFF),
        ("2026-11-20T06:00:00Z", PEAK),
        ("2026-11-20T10:00:00Z", OFF),
        ("2026-11-20T23:59:00Z", OFF),
        ("2026-11-21T02:00:00Z", OFF),
        ("2026-11-22T07:00:00Z", OFF),
        ("2026-11-23T07:00:00Z", PEAK),
    ],
)
def test_off_peak_prices_count_in_their_windows(instant: str, expected: Rates) -> None:
    offer = one(FLASH)
    assert isinstance(offer, Offer) and offer.states_hits
    assert at(offer.week, instant) == expected


def test_a_week_has_thirty_five_peak_hours() -> None:
    offer = one(FLASH)
    assert isinstance(offer, Offer)
    ends = [start for start, _ in offer.week[1:]] + [WEEK]
    assert sum(end - start for (start, found), end in zip(offer.week, ends, strict=True) if found == PEAK) == 35 * 60


def test_it_is_written_as_ours_are_with_the_peak_as_the_window() -> None:
    offer = one(FLASH)
    assert isinstance(offer, Offer)
    shape = shape_of(offer.week)
    assert shape.standard == OFF
    assert shape.windows == (("peak", ("mon", "tue", "wed", "thu", "fri"), ("01:00-04:00", "06:00-10:00"), PEAK),)
    assert shape.dearer == {"peak"}


def test_weekdays_may_be_those_of_another_zone() -> None:
    """Friday 17:00 UTC is Saturday in Shanghai."""
    pricing = {
        "input_cost_per_token": "1e-07",
        "weekday_timezone": "Asia/Shanghai",
        "windows": [{"hours_utc": "00:00-00:00", "weekdays": ["sat", "Sunday"]}],
    }
    offer = one(FLASH | {"off_peak_pricing": pricing})
    assert isinstance(offer, Offer)
    cheap = rates("0.006/0.1/1.2")
    assert at(offer.week, "2026-11-20T15:59:00Z") == PEAK and at(offer.week, "2026-11-20T16:00:00Z") == cheap
    assert at(offer.week, "2026-11-22T15:59:00Z") == cheap and at(offer.week, "2026-11-22T16:00:00Z") == PEAK


def test_flat_hours_count_every_day_and_a_rate_left_out_is_the_base() -> None:
    offer = one(FLASH | {"off_peak_pricing": {"output_cost_per_token": "6e-07", "hours_utc": "22:00-02:00"}})
    assert isinstance(offer, Offer)
    cheap = rates("0.006/0.3/0.6")
    assert [at(offer.week, f"2026-11-2{day}T{hour}:00Z") for day, hour in ((1, "22:00"), (2, "01:59"), (2, "02:00"))] == [
        cheap,
        cheap,
        PEAK,
    ]


PLAIN = {"litellm_provider": "novita", "mode": "chat", "input_cost_per_token": "7e-07", "output_cost_per_token": "2.5e-06"}
NOVITA = "novita/deepseek/deepseek-r1-0528"
FLAWS: list[tuple[dict[str, Any], str]] = [
    ({"input_cost_per_token": "0.0", "output_cost_per_token": 0}, "free or not known"),
    ({"input_cost_per_token": None}, "lacks the price"),
    ({"input_cost_per_token": "1.6000000000000001e-06"}, "1.6000000000000001 per million: probably float noise for 1.6."),
    ({"input_cost_per_token": "1.23456789012345e-06"}, "not exact in nano"),
    ({"output_cost_per_token": True}, "no number"),
    ({"output_cost_per_token": [1]}, "no number"),
    ({"input_cost_per_token_above_200k_tokens": "1e-06"}, "length of the prompt"),
    ({"tiered_pricing": [{"range": [0, 1000]}]}, "length of the prompt"),
    ({"cache_creation_input_token_cost": "1e-06"}, "writing the cache"),
    ({"output_cost_per_reasoning_token": "9e-06"}, "reasoning"),
    ({"off_peak_pricing": []}, "no object"),
    ({"off_peak_pricing": {"windows": []}}, "no hours"),
    ({"off_peak_pricing": {"windows": ["all"]}}, "no list of windows"),
    ({"off_peak_pricing": {"windows": [{"hours_utc": "25:00-26:00"}]}}, "no hours"),
    ({"off_peak_pricing": {"windows": [{"hours_utc": "00:00-01:00", "weekdays": [8]}]}}, "no weekdays"),
    (
        {"off_peak_pricing": {"windows": [{"hours_utc": "00:00-01:00"}], "weekday_timezone": "Europe/Berlin"}},
        "Berlin change",
    ),
    ({"off_peak_pricing": {"windows": [{"hours_utc": "00:00-01:00"}], "weekday_timezone": "Mars/Base"}}, "no time zone"),
]


@pytest.mark.parametrize(("flaw", "words"), FLAWS, ids=[words for _, words in FLAWS])
def test_what_no_card_can_state_is_shown_and_never_guessed(flaw: dict[str, Any], words: str) -> None:
    found = one(PLAIN | flaw, NOVITA)
    assert isinstance(found, Flagged) and words in found.reason and found.model == "deepseek/deepseek-r1-0528"


def test_float_noise_is_rounded_only_when_that_is_wanted_and_then_said() -> None:
    found = one(PLAIN | {"input_cost_per_token": "1.6000000000000001e-06"}, NOVITA, round_noise=True)
    assert isinstance(found, Offer)
    assert found.week == ((0, rates("1.6/1.6/2.5")),) and not found.states_hits
    assert found.notes == ("1.6 was 1.6000000000000001 in the catalogue",)


def test_the_older_name_of_a_cached_price_and_a_date_of_end_are_read() -> None:
    found = one(PLAIN | {"input_cost_per_token_cache_hit": "3.5e-07", "deprecation_date": "2026-12-31"}, NOVITA)
    assert isinstance(found, Offer) and found.week == ((0, rates("0.35/0.7/2.5")),)
    assert found.notes == ("the catalogue says that it ends on 2026-12-31",)


def test_other_hosts_modes_and_models_are_left_alone_and_ours_without_a_row_are_named() -> None:
    entries = {
        "sample_spec": PLAIN,
        "novita/deepseek/deepseek-r2": PLAIN,
        "novita/qwen/qwen9": PLAIN,
        "novita/deepseek/embed": PLAIN | {"mode": "embedding"},
        "baseten/deepseek-ai/DeepSeek-R1": PLAIN | {"litellm_provider": "baseten"},
        "fallback_generalizations": [],
    }
    assert list(litellm_map.offers(written(entries), MODELS)) == [
        Flagged("novita/deepseek/deepseek-r2", "novita", "", "no row in policies/hosts")
    ]


@given(st.lists(st.tuples(st.integers(0, WEEK - 1), st.sampled_from([PEAK, OFF, rates("1/2/3")])), max_size=12))
def test_a_week_as_a_card_writes_it_is_the_same_week(changes: list[tuple[int, Rates]]) -> None:
    """Standard band, windows and back: not a minute moves."""
    edges = sorted({0: OFF, **dict(changes)}.items())
    week = week_of(lambda minute: next(found for start, found in reversed(edges) if start <= minute))
    assert as_written(shape_of(week)) == week


def as_written(shape: Shape) -> Week:
    """The week that the windows of a card give, read as their texts say."""

    def found(minute: int) -> Rates:
        day, clock = DAYS[minute // 1440], f"{minute % 1440 // 60:02d}:{minute % 60:02d}"
        inside = (rates for _, days, hours, rates in shape.windows if day in days and any(span[:5] <= clock < span[6:] for span in hours))
        return next(inside, shape.standard)

    return week_of(found)


# OpenRouter

ROUTER_MODELS = {("openrouter", "deepseek/deepseek-r1-0528"): "deepseek/deepseek-r1-0528"}


def routed(**pricing: Any) -> Offer | Flagged:
    entry = {"id": "deepseek/deepseek-r1-0528", "pricing": {"prompt": "0.0000005", "completion": "0.00000215", **pricing}}
    found = list(openrouter.offers(json.dumps({"data": [entry, {"id": "qwen/qwen9"}, {"nothing": 1}]}), ROUTER_MODELS))
    assert len(found) == 1
    return found[0]


def test_openrouters_strings_are_exact() -> None:
    found = routed(input_cache_read="0.00000035", request="0", image="0", internal_reasoning="0.00000215", web_search="0.01")
    assert isinstance(found, Offer) and found.week == ((0, rates("0.35/0.5/2.15")),) and found.states_hits


def test_openrouters_overrides_are_hours_of_utc_the_last_one_wins_and_what_is_missing_is_inherited() -> None:
    found = routed(
        input_cache_read="0.00000035",
        overrides=[
            {"utc_start": 2200, "utc_end": "0200", "prompt": "0.0000001"},
            {"utc_start": 100, "utc_end": 300, "completion": "0.000001"},
        ],
    )
    assert isinstance(found, Offer)
    expected = {"00:59": "0.35/0.1/2.15", "01:00": "0.35/0.5/1", "02:59": "0.35/0.5/1", "03:00": "0.35/0.5/2.15", "22:00": "0.35/0.1/2.15"}
    for clock, text in expected.items():
        assert at(found.week, f"2026-11-22T{clock}:00Z") == rates(text), clock


@pytest.mark.parametrize(
    ("pricing", "words"),
    [
        ({"prompt": "-1"}, "no price"),
        ({"prompt": "NaN"}, "no price"),
        ({"prompt": "cheap"}, "no number"),
        ({"prompt": "0", "completion": "0"}, "free or not known"),
        ({"completion": None}, "lacks the price"),
        ({"request": "0.01"}, "`request`"),
        ({"input_cache_write": "0.000001"}, "`input_cache_write`"),
        ({"internal_reasoning": "0.1"}, "reasoning"),
        ({"overrides": [{"min_prompt_tokens": 32000, "prompt": "0.1"}]}, "length of the prompt"),
        ({"overrides": [{"utc_start": 2460, "utc_end": 100}]}, "no time of day"),
        ({"overrides": [{"utc_start": 100}]}, "no time of day"),
        ({"overrides": "none"}, "no list"),
    ],
)
def test_what_openrouter_says_beyond_a_card_is_shown(pricing: dict[str, Any], words: str) -> None:
    found = routed(**pricing)
    assert isinstance(found, Flagged) and words in found.reason


# Proposals


# What no money is, and what of it is said.
EXTREME = {
    "1e400": "1E+400",
    "1e-400": "1E-400",
    "1e999999999": "1E+999999999",
    "1e-999999999": "1E-999999999",
    "1e99999999999999999999": "1e99999999999999999999",
    "1" * 4000: "1" * 40,
}


@pytest.mark.parametrize("value", EXTREME, ids=[text[:24] for text in EXTREME])
def test_a_number_beyond_all_prices_is_named(value: str) -> None:
    """No exception of a decimal comes out, and no gigabyte of noughts."""
    for found in (one({**FLASH, "input_cost_per_token": value}), routed(prompt=value, completion="0.000001")):
        assert isinstance(found, Flagged) and len(found.reason) < 120
        assert EXTREME[value] in found.reason
    other = written({"deepseek/deepseek-flash": FLASH, "other/model": {"litellm_provider": "other", "input_cost_per_token": value}})
    assert [entry.key for entry in litellm_map.offers(other, MODELS)] == ["deepseek/deepseek-flash"]


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load(default_folder())


TERMS = Terms(parse_instant("2026-12-01T00:00:00Z"), "a test", date(2026, 11, 22))


def test_the_shipped_price_of_deepseek_is_what_litellm_says(shipped: Policies) -> None:
    """Holidays apart, which only ours have."""
    card = shipped.prices.card("deepseek", "deepseek-flash", "USD", TERMS.start)
    offer = one(FLASH)
    assert isinstance(offer, Offer) and week_of_card(card) == offer.week and card.windows[0].calendar is not None


def test_every_shipped_card_survives_being_written_by_weeks(shipped: Policies) -> None:
    for card in {card.name: card for card in shipped.prices.cards() if card.windows}.values():
        week = week_of_card(card)
        assert as_written(shape_of(week)) == week


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_folder(), tmp_path / "policies"))


def catalogue(tmp_path: Path, entries: dict[str, Any]) -> Path:
    file = tmp_path / "map.json"
    file.write_text(written(entries))
    return file


def run(*words: object) -> int:
    return cli.main(["prices", *map(str, words)])


DEARER = {"novita/deepseek/deepseek-r1-0528": PLAIN | {"input_cost_per_token": "8e-07", "cache_read_input_token_cost": "4e-07"}}
SAME = {"novita/deepseek/deepseek-r1-0528": PLAIN | {"cache_read_input_token_cost": "3.5e-07"}}


def test_an_equal_price_gives_nothing(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-litellm", catalogue(tmp_path, SAME), "--policies", folder, "--exit-code") == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err == "no new card; 1 price is as in policies, 0 to look at\n"


def test_a_changed_price_is_a_difference_that_git_applies(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*.yaml")}
    file = catalogue(tmp_path, DEARER)
    assert run("import-litellm", file, "--policies", folder, "--from", "2026-12-01T00:00:00Z", "--exit-code") == 1
    said = capsys.readouterr()
    assert before == {file: file.read_bytes() for file in folder.rglob("*.yaml")}
    assert "to review: nothing was written" in said.err
    assert not [line for line in said.out.split("\n") if line.startswith("-") and not line.startswith("---")], "nothing is taken away"
    subprocess.run(["git", "apply", "-p1"], cwd=folder, input=said.out, text=True, check=True)
    card = load(folder).prices.card("novita", "deepseek/deepseek-r1-0528", "USD", parse_instant("2026-12-01T00:00:00Z"))
    assert (card.name, card.rates, card.verified) == ("novita-r1-0528-usd-2026-12-01", rates("0.4/0.8/2.5"), False)
    assert card.source.startswith("litellm price map, sha256 ")
    assert run("import-litellm", file, "--policies", folder, "--from", "2026-12-02T00:00:00Z", "--exit-code") == 0


def test_written_cards_are_appended_and_earlier_instants_keep_their_price(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = catalogue(tmp_path, DEARER), folder / "prices" / "novita.yaml"
    old = path.read_text()
    assert run("import-litellm", file, "--policies", folder, "--write", "--from", "2026-12-01T00:00:00Z", "--exit-code", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] == ["prices/novita.yaml"]
    assert said["cards"][0] | {"windows": []} == {
        "card": "novita-r1-0528-usd-2026-12-01",
        "file": "prices/novita.yaml",
        "host": "novita",
        "models": ["deepseek/deepseek-r1-0528"],
        "before": "novita-r1-0528-usd-2025-05-28",
        "per_million": {"cache_hit": "0.4", "cache_miss": "0.8", "output": "2.5"},
        "windows": [],
        "drops": [],
    }
    assert path.read_text().startswith(old.rstrip()) and path.read_text() != old
    ours = load(folder).prices
    for instant, text in (("2026-11-30T23:59:59Z", "0.35"), ("2026-12-01T00:00:00Z", "0.4")):
        card = ours.card("novita", "deepseek/deepseek-r1-0528", "USD", parse_instant(instant))
        assert decimal_text(card.rates.cache_hit) == text
    again = path.read_text()
    assert run("import-litellm", file, "--policies", folder, "--write", "--from", "2026-12-01T00:00:00Z") == 0
    assert path.read_text() == again, "the same file twice changes nothing"


@pytest.mark.parametrize("start", ["2025-05-28T00:00:00Z", "2026-11-01T00:00:00Z"])
def test_nothing_is_put_before_or_in_place_of_a_card(tmp_path: Path, folder: Path, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenRouter has a card from 2025-05-28 and one from 2026-10-19; one more from 2027 stands for what is planned."""
    listed = {
        "id": "deepseek/deepseek-r1-0528",
        "pricing": {"prompt": "0.0000009", "completion": "0.000003", "input_cache_read": "0.0000001"},
    }
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"data": [listed]}))
    assert run("import-openrouter", file, "--policies", folder, "--write", "--from", "2027-01-01T00:00:00Z") == 0
    kept = (folder / "prices" / "openrouter.yaml").read_bytes()
    capsys.readouterr()
    assert run("import-openrouter", file, "--policies", folder, "--write", "--from", start) == 0
    said = capsys.readouterr()
    assert (folder / "prices" / "openrouter.yaml").read_bytes() == kept
    assert "# look at openrouter/deepseek/deepseek-r1-0528: card openrouter-r1-0528-usd-20" in said.out


def test_windows_keep_the_holidays_of_the_card_before(tmp_path: Path, folder: Path) -> None:
    dearer = json.loads(json.dumps(FLASH).replace("1.2e-06", "1.4e-06"))
    file = catalogue(tmp_path, {"deepseek-flash": dearer, "deepseek/deepseek-flash": dearer})
    assert run("import-litellm", file, "--policies", folder, "--write", "--from", "2026-12-01T00:00:00Z") == 0
    text = (folder / "prices" / "deepseek.yaml").read_text()
    assert text.count("2026-12-01T00:00:00Z") == 1 and "except: cn-public-holidays" in text.rpartition("- card:")[2]
    card = load(folder).prices.card("deepseek", "deepseek-flash", "USD", parse_instant("2026-12-01T02:00:00Z"))
    assert [card.band(parse_instant(f"2026-12-0{day}T02:00:00Z")).window for day in (1, 5)] == ["peak", "standard"]
    assert decimal_text(card.band(parse_instant("2026-12-01T02:00:00Z")).rates.output) == "1.4"


def test_two_names_of_one_model_at_two_prices_are_nobodys_to_decide(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = catalogue(tmp_path, {"deepseek-flash": FLASH, "deepseek/deepseek-flash": FLASH | {"output_cost_per_token": "2e-06"}})
    assert run("import-litellm", file, "--policies", folder, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cards"] == [] and "contradicts itself" in said["flagged"][0]["reason"]


def test_a_cached_price_that_is_not_stated_is_not_taken_away(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-litellm", catalogue(tmp_path, {NOVITA: PLAIN}), "--policies", folder) == 0
    assert "# look at novita/deepseek/deepseek-r1-0528: the catalogue states no price for cached tokens" in capsys.readouterr().out


def test_a_model_without_a_price_in_dollars_gets_its_first_card(tmp_path: Path, folder: Path) -> None:
    path = folder / "prices" / "vertex.yaml"
    (folder / "prices" / "vertex-cny.yaml").write_text(path.read_text().replace("USD", "CNY"))
    path.unlink()
    entry = PLAIN | {"litellm_provider": "vertex_ai-deepseek_models"}
    file = catalogue(tmp_path, {"vertex_ai/deepseek-ai/deepseek-v4.1-flash-maas": entry})
    assert run("import-litellm", file, "--policies", folder, "--write", "--from", "2026-12-01T00:00:00Z") == 0
    assert path.read_text().startswith("# vertex in US dollars.\n\n- card: vertex-deepseek-v4.1-flash-maas-usd-2026-12-01\n")
    card = load(folder).prices.card("vertex", "deepseek-ai/deepseek-v4.1-flash-maas", "USD", TERMS.start)
    assert (card.rates, card.tier_at) == (rates("0.7/0.7/2.5"), "start")


def test_what_would_not_load_is_not_written(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder has another file with the name that the new card would get, out of our sight."""
    texts = {file: file.read_bytes() for file in folder.rglob("*.yaml")}
    offer = Offer("k", "novita", "deepseek/deepseek-r1-0528", ((0, rates("0.1/0.2/0.3")),))
    found = review([offer], load(folder), stated_in(folder), TERMS)
    wrong = {name: text.replace("currency: USD", "currency: dollars") for name, text in appended(found.cards, stated_in(folder)).items()}
    with pytest.raises(cli.CommandError, match=r"nothing was written, because the folder would not load: prices/novita.yaml:\d+"):
        prices.write(folder, wrong)
    assert texts == {file: file.read_bytes() for file in folder.rglob("*.yaml")}


def test_a_wheel_is_read_without_importing_it(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "litellm-1.109.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr(litellm_map.IN_WHEEL, written(SAME))
    assert run("import-litellm", wheel, "--policies", folder) == 0
    assert "1 price is as in policies" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (None, (), "cannot be read"),
        ("not json", (), "is not JSON"),
        ("[" * 100_000, (), "is not JSON"),
        ("[]", (), "is no object of models"),
        ('{"data": [{"id": "deepseek/deepseek-r1-0528", "pricing": {"prompt": "0"}}]}', (), "has no model with a `litellm_provider`"),
        ("{}", (), "has no model with a `litellm_provider`"),
        ("{}", ("--write",), "--write needs --from"),
        ("{}", ("--from", "tomorrow"), "is no instant"),
        ("{}", ("--host", "nowhere"), "no host is named 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, folder: Path, content: str | None, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "map.json"
    if content is not None:
        file.write_text(content)
    assert run("import-litellm", file, "--policies", folder, *words) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["[]", '{"data": [{"id": "deepseek-flash", "object": "model"}]}', '{"novita/x": {"litellm_provider": "novita"}}']
)
def test_another_list_is_not_openrouters(tmp_path: Path, folder: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that asks every week would otherwise be silent for ever."""
    file = tmp_path / "models.json"
    file.write_text(content)
    assert run("import-openrouter", file, "--policies", folder, "--exit-code") == 2
    assert "It should be what GET https://openrouter.ai/api/v1/models answered." in capsys.readouterr().err


def test_a_model_of_another_time_is_not_said_to_lack_a_row(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.json"
    file.write_text(
        json.dumps({"data": [{"id": "deepseek/deepseek-r1-0528", "pricing": {"prompt": "0.0000009", "completion": "0.000003"}}]})
    )
    assert run("import-openrouter", file, "--policies", folder, "--from", "2025-01-01T00:00:00Z") == 0
    told = capsys.readouterr().out
    assert told == "# look at openrouter/deepseek/deepseek-r1-0528: is not served at 2025-01-01T00:00:00Z\n"


# ---- cards that would say less than the one before


PRO = {"litellm_provider": "deepseek", "mode": "chat", "input_cost_per_token": "9e-07", "output_cost_per_token": "2e-06"}
FLAT = {"deepseek/deepseek-v4-pro": PRO | {"input_cost_per_token_cache_hit": "1e-08"}}
DECEMBER = ("--from", "2026-12-01T00:00:00Z")


def test_a_card_that_drops_windows_and_holidays_says_so(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-litellm", catalogue(tmp_path, FLAT), "--policies", folder, *DECEMBER) == 0
    told = capsys.readouterr().out
    dropped = "its windows (peak 0.044/1.32/3.96), its holidays (cn-public-holidays)"
    line = "# look at deepseek/deepseek-v4-pro: the new card drops what deepseek-v4-pro-usd-2026-09-16 has: "
    assert told.startswith(f"{line}{dropped}; deepseek-v4-pro-usd-2026-09-16 is verified, the new card is not\n")
    note = next(one for one in told.splitlines() if one.startswith("+  note: "))
    assert f"dropped, because the catalogue has no such thing, of deepseek-v4-pro-usd-2026-09-16: {dropped}" in note
    assert "kept" not in note


def test_a_card_that_drops_something_is_not_written_unasked(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = catalogue(tmp_path, FLAT | DEARER), folder / "prices" / "deepseek.yaml"
    kept = path.read_bytes()
    assert run("import-litellm", file, "--policies", folder, "--write", *DECEMBER, "--exit-code") == 1
    told = capsys.readouterr()
    assert path.read_bytes() == kept
    assert "1 new card, written to prices/novita.yaml; 1 new card not written (deepseek-v4-pro-usd-2026-12-01): --allow-drops" in told.err
    assert "+- card: deepseek-v4-pro" not in told.out
    assert run("import-litellm", file, "--policies", folder, "--write", *DECEMBER, "--json") == 0
    assert json.loads(capsys.readouterr().out)["held"] == ["deepseek-v4-pro-usd-2026-12-01"]
    assert run("import-litellm", file, "--policies", folder, "--write", *DECEMBER, "--allow-drops", "--exit-code") == 0
    card = load(folder).prices.card("deepseek", "deepseek-v4-pro", "USD", parse_instant("2026-12-02T02:00:00Z"))
    assert (card.windows, card.rates) == ((), rates("0.01/0.9/2"))


def test_a_cached_price_that_the_catalogue_lacks_is_dropped_aloud(folder: Path) -> None:
    """Its card would price cached tokens as the others."""
    ours = load(folder)
    flat = rates("0.9/0.9/2")
    offers = [Offer("k", "deepseek", "deepseek-v4-pro", ((0, flat),), states_hits=False)]
    (card,) = review(offers, ours, stated_in(folder), TERMS).cards
    assert card.drops[2:] == ("its price of cached tokens",)
    dearer = Offer("k", "novita", "deepseek/deepseek-r1-0528", ((0, rates("0.7/0.7/3")),), states_hits=False)
    found = review([dearer], ours, stated_in(folder), TERMS)
    assert found.cards[0].drops == ("its price of cached tokens",)
    assert "is verified" not in found.flagged[0].reason


def test_off_peak_windows_keep_no_holidays(folder: Path) -> None:
    """Holidays suspend what is dearer: where a catalogue has only cheaper hours, they are dropped, and that is said."""
    week = ((0, rates("0.02/0.9/2")), (60, rates("0.01/0.5/1")), (120, rates("0.02/0.9/2")))
    (card,) = review([Offer("k", "deepseek", "deepseek-v4-pro", week)], load(folder), stated_in(folder), TERMS).cards
    assert card.drops == ("its holidays (cn-public-holidays)",)
    assert "except" not in card.text and "kept" not in card.text


def test_only_the_hosts_that_are_named_are_looked_at(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-litellm", catalogue(tmp_path, DEARER), "--policies", folder, "--host", "nebius", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cards"], said["equal"], said["unknown"]) == ([], 0, [])


def test_models_without_a_row_are_named_as_comments(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {"novita/deepseek/deepseek-r2": PLAIN, "novita/deepseek/deepseek-\u2028r3": PLAIN}
    assert run("import-litellm", catalogue(tmp_path, entries), "--policies", folder) == 0
    expected = "# novita has more, without a row in policies: novita/deepseek/deepseek-r2, novita/deepseek/deepseek-\\u2028r3\n"
    assert capsys.readouterr().out == expected
