"""Keys: the list, making one (its secret is in one answer, and nowhere else) and revoking one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from gateway.clock import parse_instant
from gateway.console.desk import Desk
from gateway.console.figures import NONE, clock, money, nano_of
from gateway.console.frame import (
    Ask,
    Cell,
    Column,
    Go,
    Page,
    Tone,
    button,
    choice,
    code,
    commands,
    empty,
    entry,
    facts,
    heading,
    link,
    mark,
    notice,
    section,
    table,
)
from gateway.console.markup import Html, join, tag
from gateway.errors import FaregateError
from gateway.keys.orders import Order, checked, fits
from gateway.keys.port import Key, KeyProblem

_PERIODS: Final = (("month", "a month"), ("week", "a week"), ("day", "a day"), ("hour", "an hour"), ("total", "in total"))
_TONES: Final[dict[str, Tone]] = {"active": "ok", "expired": "warn", "revoked": "quiet"}
_COLUMNS: Final = (
    Column("Key"),
    Column("Team"),
    Column("Begins with"),
    Column("State"),
    Column("Made"),
    Column("Expires"),
    Column("Budget", sort=False),
    Column("Do", sort=False),
)


async def keys(desk: Desk, ask: Ask) -> Page:
    return await _page(desk, ask)


async def create(desk: Desk, ask: Ask) -> Page:
    """Makes one key for one form: the same form again says so, and makes none."""
    if not ask.fresh:
        said = "This form was sent before: its key was made, and shown, then. The list has it."
        return await _page(desk, ask, notice("bad", tag("p", said)), 409)
    try:
        order: Order = checked(Order, _order(ask.fields))
        fits(order, desk.policies, desk.now())
        issued = await desk.keys.registry.create(order)
    except KeyProblem as problem:
        return await _page(desk, ask, notice("bad", tag("p", "No key was made: ", str(problem))), 400)
    await desk.keys.applied()
    secret = issued.secret.get_secret_value()
    shown = section(
        "made",
        f"The key {issued.key.name} of team {issued.key.team}",
        notice("warn", tag("p", tag("strong", "Copy it now."), " It is shown this once: only a digest of it is kept.")),
        commands(secret, name="The key"),
        facts((("It is sent as", code("Authorization: Bearer …")), ("Known as", f"{issued.key.id}, {issued.key.prefix}…"))),
        tag("p", link("/keys", "I have copied it", class_="button")),
        live=False,
    )
    return Page("A new key", "/keys", join(heading("A new key"), shown), status=201)


def _order(fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the form as the admin API takes them: what is empty was not said."""
    said = {name: fields[name].strip() for name in ("team", "name", "expires") if fields.get(name, "").strip()}
    amount = fields.get("amount", "").strip()
    budget = {"amount": amount, **{name: fields[name].strip() for name in ("currency", "period", "zone") if fields.get(name, "").strip()}}
    return {**said, **({"budget": budget} if amount else {})}


async def confirm(desk: Desk, ask: Ask) -> Page:
    """What revoking means, and the form that does it."""
    key = await _key(desk, ask.parts["id"])
    if key.state(desk.now()) == "revoked":
        return Page("Revoke a key", "/keys", join(heading("Revoke a key"), notice("ok", tag("p", f"{key.name} is revoked already."))))
    refused = f" are refused on every replica within 5 seconds, for ever. It is {key.name} of team {key.team}."
    asked = tag("p", "Requests with ", code(f"{key.prefix}…"), refused)
    keep = link("/keys", "Keep it", class_="button quiet", data_close=True)
    form = ask.form(f"/keys/{key.id}/revoke", button("Revoke it", "danger"), " ", keep)
    return Page("Revoke a key", "/keys", join(heading("Revoke a key"), section("revoke", f"Revoke {key.name}?", asked, form, live=False)))


async def revoke(desk: Desk, ask: Ask) -> Page | Go:
    key = await _key(desk, ask.parts["id"])
    try:
        await desk.keys.registry.revoke(key.id)
    except KeyProblem as problem:
        return await _page(desk, ask, notice("bad", tag("p", str(problem))), 409)
    await desk.keys.applied()
    return Go(f"/keys?revoked={key.id}")


class _Unknown(FaregateError):
    status = 404
    code = "not_found"


async def _key(desk: Desk, id: str) -> Key:
    for key in await desk.keys.registry.keys():
        if key.id == id:
            return key
    raise _Unknown("No key has this id.")


async def _page(desk: Desk, ask: Ask, said: Html | None = None, status: int = 200) -> Page:
    try:
        found = [desk.keys.registry.shown(key) for key in await desk.keys.registry.keys()]
    except KeyProblem as problem:
        found, said, status = [], notice("bad", tag("p", str(problem))), 409
    if said is None and (gone := next((one for one in found if one["id"] == ask.query.get("revoked")), None)):
        said = notice("ok", tag("p", f"{gone['name']} is revoked, and refused from now on."))
    title = heading("Keys", note="Keys of FAREGATE_KEYS are not in this list: they end where they are set.")
    return Page("Keys", "/keys", join(title, said, _list(found), _form(desk, ask)), status=status)


def _list(found: list[dict[str, Any]]) -> Html:
    if not found:
        said = "No key is stored. Make the first one below, or on the command line:"
        return section("list", "No keys yet", empty(said, commands("faregate keys create --team search")), live=False)
    # What works stands first, and the newest of it.
    rows = sorted(found, key=lambda one: one["created"], reverse=True)
    rows.sort(key=lambda one: str(one["state"]))
    made = table("keys", "Stored keys", _COLUMNS, [_row(one) for one in rows], hide_caption=True)
    return section("list", "Stored keys", made, live=False)


def _row(one: dict[str, Any]) -> tuple[Cell | Html | str, ...]:
    budget = one["budget"]
    ends = one["revoked"] or one["expires"]
    word = "revoked " if one["revoked"] else None
    what = tag("span", f" {one['name']}", class_="unseen")
    act = link(f"/keys/{one['id']}/revoke", "Revoke", what, class_="button small danger", data_confirm=True)
    return (
        Cell(join(one["name"], tag("span", one["id"], class_="note")), one["name"]),
        one["team"],
        code(f"{one['prefix']}…"),
        mark(one["state"], _TONES[one["state"]]),
        Cell(clock(_at(one["created"])), one["created"]),
        Cell(join(word, clock(_at(ends))), ends) if ends else Cell("never", "9999"),
        "none" if budget is None else join(money(nano_of(budget["amount"]), budget["currency"]), f" {dict(_PERIODS)[budget['period']]}"),
        act if one["state"] != "revoked" else Cell(NONE),
    )


def _at(text: str) -> datetime:
    return parse_instant(text)


def _form(desk: Desk, ask: Ask) -> Html:
    teams = sorted(desk.policies.teams)
    was = ask.fields
    who = (
        entry("team", "Team", control=choice("team", [(team, team) for team in teams], was.get("team", "")))
        if teams
        else entry("team", "Team", required=True, maxlength=64, value=was.get("team"), hint="No team has a file, so any name will do.")
    )
    lives = "A span such as 90d or 12h, or an instant; else never."
    fields = (
        who,
        entry("name", "Name", maxlength=64, value=was.get("name"), hint="What the ledger calls it; else its team and six digits."),
        entry("expires", "Expires", maxlength=40, value=was.get("expires"), placeholder="90d", hint=lives),
    )
    own = tag("fieldset", tag("legend", "A budget of its own"), tag("div", _budget(desk, was), class_="fields"))
    form = ask.form("/keys", tag("div", fields, class_="fields"), own, button("Make a key", "primary"), id="create")
    return section("new", "Make a key", form, note="Its secret is shown once.", live=False)


def _budget(desk: Desk, was: Mapping[str, str]) -> tuple[Html, ...]:
    currencies = sorted({card.currency for card in desk.policies.prices.cards()})
    none = "Empty: only the budgets of its team."
    return (
        entry("amount", "Amount", inputmode="decimal", maxlength=40, value=was.get("amount"), placeholder="5.00", hint=none),
        entry("currency", "Currency", control=choice("currency", [(one, one) for one in currencies], was.get("currency") or "USD")),
        entry("period", "For", control=choice("period", _PERIODS, was.get("period") or "month")),
        entry("zone", "Time zone", maxlength=64, value=was.get("zone"), placeholder="UTC", hint="Where its days and months begin."),
    )
