"""Exact money: integers of nano-units (1e-9) of one named currency; no float ever touches it.

What lives here: amounts, rates, the one rounding, the split of a charge into its classes.
What does not: which rate applies (prices), how many tokens there were (usage).
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation

from msgspec import Struct

NANO = 10**9
MILLION = 10**6
_ONE_NANO = Decimal("1e-9")
# The default context would round a text of more than 28 digits without a word.
_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation])


class MoneyError(ValueError):
    """An amount that is not exact in nano-units, or two currencies in one sum."""


class Money(Struct, frozen=True):
    """An exact amount: `nano` nano-units of `currency` (an ISO 4217 code)."""

    nano: int
    currency: str

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise MoneyError(f"{self.currency} and {other.currency} do not add: convert one first")
        return Money(self.nano + other.nano, self.currency)

    def __str__(self) -> str:
        return f"{decimal_text(self.nano)} {self.currency}"


class Rates(Struct, frozen=True):
    """Prices of one band: nano-units per million tokens of each class."""

    cache_hit: int
    cache_miss: int
    output: int

    def at_least(self, other: Rates) -> Rates:
        """The dearer of two bands, class by class."""
        return Rates(
            max(self.cache_hit, other.cache_hit),
            max(self.cache_miss, other.cache_miss),
            max(self.output, other.output),
        )


class Parts(Struct, frozen=True):
    """A charge by class in nano-units; the three always sum to the charge."""

    cache_hit: int
    cache_miss: int
    output: int

    @property
    def total(self) -> int:
        return self.cache_hit + self.cache_miss + self.output


def exact_nano(text: str) -> int:
    """Nano-units of a non-negative decimal string, exactly; raises MoneyError when it is not exact in nano."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise MoneyError(f"{text!r} is not a decimal number") from None
    if not amount.is_finite() or amount < 0:
        raise MoneyError(f"{text!r} is not a non-negative amount")
    try:
        return int(amount.quantize(_ONE_NANO, context=_EXACT).scaleb(9, context=_EXACT))
    except Inexact:
        raise MoneyError(f"{text!r} is not exact in nano-units (at most 9 decimal places)") from None
    except InvalidOperation:
        raise MoneyError(f"{text!r} is larger than any amount of money") from None


def decimal_text(nano: int) -> str:
    """The shortest exact decimal text of an amount: 5280000000 -> "5.28"; never an exponent."""
    if nano < 0:
        return "-" + decimal_text(-nano)
    digits = str(nano).zfill(10)
    return f"{digits[:-9]}.{digits[-9:]}".rstrip("0").removesuffix(".")


def cost(rates: Rates, cache_hit: int, cache_miss: int, output: int) -> int:
    """The total of `charge`, without its parts: for quotes."""
    return -(-(cache_hit * rates.cache_hit + cache_miss * rates.cache_miss + output * rates.output) // MILLION)


def charge(rates: Rates, cache_hit: int, cache_miss: int, output: int) -> Parts:
    """The charge of disjoint token counts: rounded up once, and split so that the parts sum to it.

    Each part is a floor; the remainder goes to output, else miss, else hit (whichever is charged).
    """
    total = cost(rates, cache_hit, cache_miss, output)
    hit = cache_hit * rates.cache_hit // MILLION
    miss = cache_miss * rates.cache_miss // MILLION
    if output:
        return Parts(hit, miss, total - hit - miss)
    if cache_miss:
        return Parts(hit, total - hit, 0)
    return Parts(total, 0, 0)
