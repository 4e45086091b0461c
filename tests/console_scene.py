"""A gateway that has been in use, for looking at its console: three teams, two hosts, two currencies, failures, and no room left.

`python -m tests.console_scene FOLDER` draws the pictures of docs/console.md into a folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.money import decimal_text
from tests.browser import Chromium, Tab
from tests.harness import ADMIN
from tests.replicas import Stage, team_of
from tests.servers import program

# A Friday within DeepSeek's peak hours, which end at 10:00.
PEAK: Final = "2026-11-20T09:20:00Z"
RATES: Final = '- {from: USD, to: CNY, rate: "7.1", at: 2026-01-01T00:00:00Z, source: "the books"}\n'
PATHS: Final = ("/", "/budgets", "/requests", "/hosts", "/keys", "/policies")
# In which colours each page is drawn for the docs.
SCHEMES: Final = {
    "overview": ("light", "dark"),
    "budgets": ("light",),
    "requests": ("dark",),
    "hosts": ("dark",),
    "keys": ("light",),
    "policies": ("light",),
    "explain": ("light",),
}
_SYSTEM: Final = "You answer questions about the timetable of a railway. " * 40


def month(amount: str, currency: str = "USD", **more: Any) -> dict[str, Any]:
    return {"budget": "month", "amount": amount, "currency": currency, "period": "month", "zone": "Asia/Shanghai", **more}


TEAMS: Final = (
    team_of("search", month("0.05"), {**month("0.004"), "budget": "day", "period": "day"}, steps=[{"at": 80, "prefer": "cheapest"}]),
    team_of("agents", month("0.40", "CNY")),
    team_of("evals", {**month("0.02"), "budget": "week", "period": "week"}),
)


@contextmanager
def scene(folder: Path, clock: str = PEAK, poll: str = "0") -> Iterator[Stage]:
    """The gateway before anybody asked it anything. DeepSeek's account is billed in yuan, the other one in dollars."""
    settings = {"FAREGATE_CURRENCY_DEEPSEEK": "CNY", "FAREGATE_BALANCE_POLL": poll}
    with Stage(folder, TEAMS, hosts=("deepseek", "novita"), clock=clock, rates=RATES, settings=settings) as stage:
        yield stage


def play(stage: Stage, rounds: int = 4, pause: float = 0) -> list[str]:
    """Conversations of three teams, with a failover; the ids of the requests, in their order."""
    ids = []
    for turn in range(rounds):
        for team, model in (("search", "deepseek-flash"), ("agents", "deepseek-v4-pro"), ("evals", "novita/deepseek/deepseek-v4-pro-0813")):
            talk = [{"role": "system", "content": f"{_SYSTEM} For {team}."}]
            talk += [
                {"role": "user", "content": f"When does train {number} leave? [[answer=60 reasoning=90]]"} for number in range(turn + 1)
            ]
            body = {"model": model, "messages": talk, "stream": turn % 2 == 1, "max_tokens": 900}
            _, headers, _ = stage.chat(team, body)
            ids.append(headers["x-request-id"])
        time.sleep(pause)
    stage.hosts["deepseek"].faults({"status": 503})
    body = {"model": "deepseek-v4-pro", "messages": [{"role": "user", "content": "Is it late? [[answer=40]]"}], "user": "someone"}
    _, headers, _ = stage.chat("agents", body)
    ids.append(headers["x-request-id"])
    stage.quiet()
    return ids


def overdraw(stage: Stage) -> None:
    """The limit of a team falls below what it has spent."""
    limit = decimal_text(stage.budget("evals", "week").spent * 12 // 13)
    stage.change(team_of("evals", {**month(limit), "budget": "week", "period": "week"}))


def log_in(tab: Tab, url: str, token: str = ADMIN) -> None:
    tab.open(url)
    tab.wait("document.activeElement && document.activeElement.id === 'token'")
    tab.type(token)
    mark = tab.mark()
    tab.key("Enter")
    tab.loaded(mark)


def draw(folder: Path) -> None:
    """The pictures, from what a gateway really did."""
    folder.mkdir(parents=True, exist_ok=True)
    browser = Chromium()
    try:
        with tempfile.TemporaryDirectory() as place, scene(Path(place), "2026-11-20T01:10:00Z*1200") as stage:
            ids = play(stage, 8, 1.5)
            overdraw(stage)
            for team, name in (("search", "ci"), ("agents", "night-shift")):
                stage.admin_post("keys", {"team": team, "name": name, "expires": "90d", "budget": {"amount": "5.00"}})
            _draw(browser.tab(), stage.one.admin_url, ids[-3], folder)
    finally:
        browser.close()
    # Flat colours need no more of them, and the pictures are a third as large.
    pictures = map(str, folder.glob("console-*.png"))
    subprocess.run([program("pngquant", "pngquant"), "--force", "--ext", ".png", "--speed", "1", "96", *pictures], check=True)


def _draw(tab: Tab, url: str, id: str, folder: Path) -> None:
    tab.wide(1280, 1000)
    tab.scheme("light")
    log_in(tab, url)
    for path in (*PATHS, f"/requests/{id}"):
        name = "explain" if path.count("/") > 1 else path.strip("/") or "overview"
        for scheme in SCHEMES[name]:
            tab.scheme(scheme)
            tab.wide(1280, 1000)
            tab.open(url + path)
            tab.picture(folder / f"console-{name}{'-dark' if scheme == 'dark' else ''}.png")
    tab.scheme("light")
    tab.wide(400, 1000)
    tab.open(url)
    tab.picture(folder / "console-narrow.png")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
