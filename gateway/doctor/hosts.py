"""Hosts: reached, secured, answering, willing to take the key, with money on the account; never asked for anything that costs."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from gateway.balances import Figure, Unreadable, figures
from gateway.doctor.findings import Finding, failure, ok, warning
from gateway.doctor.network import Trip, Trouble, travel
from gateway.doctor.patient import Patient, real_now
from gateway.errors import UpstreamError
from gateway.hosts import Host
from gateway.money import NANO, decimal_text
from gateway.reports.text import many
from gateway.settings import variable_name
from gateway.upstream.accounts import Account

# Seconds for all that one host is asked.
WITHIN: Final = 4.0
CERTIFICATE_DAYS: Final = 10
# Whole units of the account's currency under which hosts begin to allow less at a time.
LOW: Final = 5
# Seconds that a clock may be off before prices at the edge of a window are wrong, and before tokens and certificates fail.
SKEW, WRONG = 3.0, 60.0
_DAY: Final = 86_400


async def look(patient: Patient, host: Host, account: Account) -> list[Finding]:
    """Everything about one host; every copy of an engine is reached, the first one is asked more."""
    bases = account.replicas or (account.base_url,)
    names = [f"{host.host} #{number}" for number in range(len(bases))] if account.replicas else [host.host]
    found = await asyncio.gather(
        *(_base(patient, host, account, base, name, first=name == names[0]) for base, name in zip(bases, names, strict=True))
    )
    return [one for some in found for one in some]


async def _base(patient: Patient, host: Host, account: Account, base: str, name: str, *, first: bool) -> list[Finding]:
    if base.startswith("worker:"):
        return await _bedrock(patient, name)
    try:
        headers = _signed(account)
    except UpstreamError:
        # Its own look says so; without the key there is less to see.
        headers = {}
    base = base.rstrip("/")
    models, open_to_all, wallet = Trip(), Trip(), Trip()
    troubles = await asyncio.gather(
        _get(models, base + "/models", headers),
        _get(open_to_all, base + "/models", {}) if first and headers else _nothing(),
        _get(wallet, base + host.balance.path, headers) if first and headers and host.balance else _nothing(),
    )
    found = list(_way(name, models, troubles[0]))
    if base.startswith("http://") and headers and not _near(models.address):
        remedy = "Name it with https:// in its base URL."
        found.append(warning("tls", name, "the key and every prompt go there unencrypted", remedy))
    if troubles[0] is None:
        found += _answer(patient, host, name, models, open_to_all, wallet)
        found += _offer(patient, host, name, models)
    if wallet.status == 200:
        found += _left(patient, host, account, wallet)
    return found


async def _bedrock(patient: Patient, name: str) -> list[Finding]:
    """Its worker is not started for a look: only the way to it is tried."""
    region = next(filter(None, map(patient.settings.upstream_key, ("AWS_REGION", "AWS_DEFAULT_REGION"))), None)
    urls = patient.settings.base_urls_of(name)
    trip = Trip()
    url = urls[0] if urls else f"https://bedrock-runtime.{region.get_secret_value() if region else 'us-east-1'}.amazonaws.com"
    return list(_way(name, trip, await _get(trip, url + "/", {})))


async def _nothing() -> Trouble | None:
    return None


async def _get(trip: Trip, url: str, headers: Mapping[str, str]) -> Trouble | None:
    try:
        async with asyncio.timeout(WITHIN):
            await travel(trip, url, headers)
    except Trouble as trouble:
        return trouble
    except TimeoutError:
        remedy = "Check the way there (firewall, proxy, VPN); if others are as slow, this machine's network."
        return Trouble(trip.stage, f"no answer within {WITHIN:g} s", remedy)
    return None


def _signed(account: Account) -> dict[str, str]:
    """The headers by which the host knows us, and no other."""
    return {name: value for name, value in account.headers("doctor", False).items() if name in ("authorization", "api-key", "user-agent")}


def _way(name: str, trip: Trip, trouble: Trouble | None) -> Iterator[Finding]:
    """DNS, TCP and TLS, as far as it came."""
    if trip.dns is not None:
        yield ok("dns", name, f"found in {trip.dns:g} ms", milliseconds=trip.dns)
    if trip.tcp is not None:
        yield ok("tcp", name, f"connected to {trip.address} in {trip.tcp:g} ms", milliseconds=trip.tcp)
    if trip.tls is not None:
        yield _certificate(name, trip)
    if trouble is not None:
        yield failure(trouble.stage, name, trouble.text, trouble.remedy)


def _certificate(name: str, trip: Trip) -> Finding:
    days = None if trip.expires is None else int((trip.expires - real_now().timestamp()) // _DAY)
    text = f"{trip.version} in {trip.tls:g} ms"
    if days is None:
        return ok("tls", name, text, milliseconds=trip.tls)
    text += f", certificate valid for {many(days, 'more day')}"
    if days < CERTIFICATE_DAYS:
        remedy = "Nothing here: whoever runs the host must renew it. Be ready for its failure."
        return warning("tls", name, text, remedy, milliseconds=trip.tls, days_left=days)
    return ok("tls", name, text, milliseconds=trip.tls, days_left=days)


def _answer(patient: Patient, host: Host, name: str, models: Trip, open_to_all: Trip, wallet: Trip) -> Iterator[Finding]:
    """What the statuses say of the host and of the key."""
    figures = {"milliseconds": models.http, "status": models.status, **_skew(models)}
    shown = f"answered {models.status} in {models.http:g} ms"
    private = next((trip for trip in (wallet, models) if trip.status in (401, 402, 403)), None)
    if private is not None and private.status == 402:
        text = "the key is accepted, and the account has no money (402)"
        yield failure("http", name, text, f"Top up the account at {host.host}.", **figures)
    elif private is not None:
        remedy = f"Set {host.key} to a key that is valid at {host.host}." if host.key else "See what the server wants."
        yield failure("http", name, f"the key is refused ({private.status})", remedy, **figures)
    elif models.status == 429:
        yield warning("http", name, f"{shown}: too many requests", "Wait, and look at what else uses this key.", **figures)
    elif models.status >= 500:
        remedy = "Wait, or look at the host's status page; requests go to others meanwhile."
        yield warning("http", name, f"{shown}: it is ill", remedy, **figures)
    elif models.status == 200 and (wallet.status == 200 or open_to_all.status in (401, 403)):
        yield ok("http", name, f"{shown}, and takes the key", **figures)
    elif host.key is None:
        yield ok("http", name, shown, **figures)
    else:
        yield ok("http", name, f"{shown}; whether it takes the key only a paid request would show", **figures)


def _offer(patient: Patient, host: Host, name: str, models: Trip) -> Iterator[Finding]:
    """Models that are routed and that the host's own list does not have."""
    listed = _listed(models)
    if not listed or host.local:
        return
    routed = {one.model for route in patient.policies.routes.values() for one in route.deployments if one.host == host.host}
    serving = (patient.policies.deployment(host.host, model, patient.at) for model in routed)
    missing = sorted({one.upstream_model for one in serving if one} - listed)
    if missing:
        remedy = f"If they are gone, write `until` into their rows of policies/hosts/{host.host}.yaml."
        yield warning("models", name, f"its list has no {', '.join(missing)}, which routes send there", remedy, missing=missing)


def _listed(models: Trip) -> set[str]:
    if models.status != 200:
        return set()
    found = _json(models.body)
    rows = found.get("data") if isinstance(found, dict) else None
    return {row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)} if isinstance(rows, list) else set()


def _left(patient: Patient, host: Host, account: Account, wallet: Trip) -> Iterator[Finding]:
    """What is left on the account, where the host says it."""
    assert host.balance is not None, "it was asked by its row"
    try:
        found = figures(wallet.body, host.balance, account.currency)
    except Unreadable:
        yield warning("balance", host.host, "its answer about the account cannot be read", "Look at the account in the host's console.")
        return
    mine = [one for one in found if one.currency == account.currency]
    if found and not mine:
        variable = f"FAREGATE_CURRENCY_{variable_name(host.host)}"
        text = f"the account is in {found[0].currency}, and is priced here in {account.currency}"
        yield failure("balance", host.host, text, f"Set {variable}={found[0].currency}: it chooses the price list.")
    for one in mine:
        yield _money(account, one)


def _money(account: Account, figure: Figure) -> Finding:
    if figure.left is None:
        return ok("balance", account.host, "it states no limit for this key")
    remedy = f"Top up the account at {account.host}: many hosts also allow fewer requests at a time as it shrinks."
    shown = decimal_text(figure.left)
    text, numbers = f"{shown} {figure.currency} left", {"left": shown, "currency": figure.currency}
    if figure.left <= 0:
        return failure("balance", account.host, f"{text}: requests are refused", remedy, **numbers)
    if figure.left < LOW * NANO:
        return warning("balance", account.host, text, remedy, **numbers)
    return ok("balance", account.host, text, **numbers)


def _skew(trip: Trip) -> dict[str, float]:
    """How many seconds this machine's clock is ahead of the host's; a Date header says whole seconds."""
    try:
        stated = parsedate_to_datetime(trip.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return {}
    return {"clock_ahead_seconds": round(trip.half - (stated + 0.5), 1)}


def clock(found: Iterable[Finding]) -> Iterator[Finding]:
    """This machine's clock against those of the hosts: the host that differs least counts, since one of them may be wrong itself."""
    skews = {one.subject: one.figures["clock_ahead_seconds"] for one in found if "clock_ahead_seconds" in one.figures}
    if not skews:
        return
    name, ahead = min(skews.items(), key=lambda item: abs(item[1]))
    text = f"{abs(ahead):g} s {'ahead of' if ahead > 0 else 'behind'} {name}"
    remedy = "Let the machine keep its time (chrony, systemd-timesyncd): prices change by the clock."
    if abs(ahead) > WRONG:
        yield failure("clock", "machine", text, remedy, ahead_seconds=ahead)
    elif abs(ahead) > SKEW:
        yield warning("clock", "machine", text, remedy, ahead_seconds=ahead)
    else:
        yield ok("clock", "machine", "agrees with the hosts' clocks to the second", ahead_seconds=ahead)


def _near(address: str) -> bool:
    """Whether an address is this machine or a private network."""
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        # Never reached: its own finding says so.
        return True


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
