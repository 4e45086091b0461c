"""The pages of who has not logged in: the form for the admin token, what to do where none is set, and errors."""

from __future__ import annotations

from gateway.console.frame import Ask, Page, button, commands, entry, heading, notice, section
from gateway.console.markup import Html, document, join, tag


def login(ask: Ask, to: str, problem: str | None = None, status: int = 200) -> Page:
    """The form for the token; `to` is the page that was asked for."""
    field = entry(
        "token", "Admin token", type="password", required=True, maxlength=512, autofocus=True, hint="FAREGATE_ADMIN_TOKEN of this gateway."
    )
    form = ask.form("/login", tag("input", type="hidden", name="to", value=to), field, button("Log in", "primary"))
    said = notice("bad", tag("p", problem)) if problem else None
    return Page("Log in", "", _narrow("Log in", said, form), status=status)


def unset() -> Page:
    """The console of a gateway without an admin token."""
    steps = join(
        tag("p", "The console, and the admin API beside it, need an admin token. Set one and start the gateway again:"),
        commands("export FAREGATE_ADMIN_TOKEN=$(openssl rand -hex 32)", "faregate serve", name="How to set a token"),
        tag("p", "Until then this port serves metrics and health alone."),
    )
    return Page("No admin token", "", _narrow("No admin token is set", steps), status=404)


def failed(title: str, text: str, status: int) -> Page:
    return Page(title, "", join(heading(title), notice("bad", tag("p", text))), status=status)


def passing(path: str) -> Html:
    """A page that goes on to another one of ours: the browser sends a strict cookie only where the way began here."""
    head = join(tag("meta", charset="utf-8"), tag("meta", http_equiv="refresh", content=f"0;url={path}"), tag("title", "Faregate"))
    return document(head, tag("p", tag("a", "Go on", href=path)))


def _narrow(title: str, *children: Html | None) -> Html:
    return tag("div", section("door", title, *children, live=False, level="h1"), class_="narrow")
