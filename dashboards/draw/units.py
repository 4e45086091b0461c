"""Values as text, in the units of the panels; ticks of axes."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import Final

_PREFIXES: Final = {"currencyUSD": "$", "currency:¥": "¥"}
_SUFFIXES: Final = {"reqps": " req/s", "ops": " ops/s"}
_TIMES: Final = (
    (1e-3, 1e6, " µs"), (1.0, 1e3, " ms"), (60.0, 1.0, " s"), (3600.0, 1 / 60, " min"), (86400.0, 1 / 3600, " h"),
    (7 * 86400.0, 1 / 86400, " d"), (float("inf"), 1 / 604800, " wk"),
)  # fmt: skip
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


def text(value: float, unit: str, decimals: int | None = None) -> str:
    """A value in its unit, short enough for a panel."""
    if not isfinite(value):
        return "-" if value != value else "∞"
    if unit == "percentunit":
        return _number(100 * value, decimals, 3) + " %"
    if unit == "s":
        return _seconds(value, decimals)
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), decimals)
    if unit == "bool":
        return "true" if value else "false"
    if unit == "bool_yes_no":
        return "yes" if value else "no"
    if unit in _PREFIXES:
        sign = "-" if value < 0 else ""
        return f"{sign}{_PREFIXES[unit]}{_scaled(abs(value), 1000, ('', 'K', 'M', 'B'), decimals)}"
    if unit == "short" or unit in _SUFFIXES:
        return _scaled(value, 1000, ("", " K", " Mil", " Bil"), decimals) + _SUFFIXES.get(unit, "")
    return _number(value, decimals, 4)


def _seconds(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    factor, name = next((factor, name) for below, factor, name in _TIMES if abs(value) < below)
    return _number(value * factor, decimals, 3) + name


def _scaled(value: float, base: float, names: tuple[str, ...], decimals: int | None) -> str:
    number = 0
    while abs(value) >= base and number < len(names) - 1:
        value, number = value / base, number + 1
    return _number(value, decimals if number == 0 else None, 3) + (f" {names[number]}" if base == 1024 else names[number])


def _number(value: float, decimals: int | None, digits: int) -> str:
    """`decimals` places, or as many as `digits` significant digits need."""
    if decimals is None:
        places = 0 if value == 0 else max(0, digits - 1 - floor(log10(abs(value)) + 1e-9))
        places = min(places, 6)
        short = f"{value:.{places}f}"
        return short.rstrip("0").rstrip(".") if "." in short else short
    return f"{value:.{decimals}f}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from `low` to `high`, both covered, at most about `most` of them."""
    raw = (high - low) / max(1, most)
    size = 10.0 ** floor(log10(raw)) if raw > 0 else 1.0
    step = next(one * size for one in _STEPS if one * size >= raw * 0.999)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def in_unit(low: float, high: float, most: int, unit: str) -> list[float]:
    """Ticks that are round in the words of the unit: hours and days for seconds, powers of two for bytes."""
    size = 1.0
    if unit == "s":
        size = next(size for below, size in ((120.0, 1.0), (7200.0, 60.0), (172800.0, 3600.0), (float("inf"), 86400.0)) if high < below)
    elif unit == "bytes":
        size = 1048576.0
    elif unit == "percentunit":
        size = 0.01
    return [value * size for value in ticks(low / size, high / size, most)]


_LOG_TIMES: Final = (
    1e-3,
    1e-2,
    0.1,
    1.0,
    10.0,
    60.0,
    600.0,
    3600.0,
    6 * 3600.0,
    86400.0,
    7 * 86400.0,
    28 * 86400.0,
    56 * 86400.0,
    364 * 86400.0,
)


def log_ticks(low: float, high: float, unit: str) -> list[float]:
    """Ticks of a logarithmic axis around these positive values."""
    if unit != "s":
        return decades(low, high)
    first = max([0, *(number for number, value in enumerate(_LOG_TIMES) if value <= low)])
    last = next((number for number, value in enumerate(_LOG_TIMES) if value >= high), len(_LOG_TIMES) - 1)
    return list(_LOG_TIMES[first : max(last, first + 1) + 1])


def decades(low: float, high: float) -> list[float]:
    """Powers of ten around these positive values."""
    first, last = floor(log10(low)), -floor(-log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]
