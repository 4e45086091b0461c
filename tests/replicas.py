"""Several live gateways on one ledger, as replicas are, with teams of the test's own."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gateway.clock import parse_instant
from gateway.policies import default_folder
from tests import prepared
from tests.harness import ADMIN, EmulatedHost, LiveGateway, environment, get_json, post
from tests.load import Ask, Got, play
from tests.scripted import until

# A Friday outside DeepSeek's peak hours: a token of deepseek-flash costs 150 nano in the prompt and 600 in the answer.
QUIET = "2026-11-20T12:00:00Z"
MODEL = "deepseek-flash"
PROMPT_NANO, OUTPUT_NANO = 150, 600
Answer = tuple[int, dict[str, str], bytes]


def key_of(team: str) -> str:
    return f"sk-{team}-0123456789abcdef"


def total(amount: str, **more: Any) -> dict[str, Any]:
    """A budget without an end."""
    return {"budget": "total", "amount": amount, "currency": "USD", "period": "total", **more}


def team_of(name: str, *budgets: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"team": name, "routes": ["*"], "budgets": list(budgets), **more}


def ask(wish: str = "", **fields: Any) -> dict[str, Any]:
    """A body; `wish` steers the emulator."""
    return {"model": MODEL, "messages": [{"role": "user", "content": f"Which is greater? [[{wish or 'answer=20'}]]"}], **fields}


class Budget(NamedTuple):
    """One budget as the admin API shows it, in nano-units."""

    limit: int
    spent: int
    held: int
    peak: int
    overrun: int
    row: dict[str, Any]


class Stage:
    """Replicas before the same hosts; `with` ends them, after asking the ledger for its invariants. Without the URL of a PostgreSQL
    database they share one SQLite file.
    """

    def __init__(
        self,
        folder: Path,
        teams: Iterable[Mapping[str, Any]],
        *,
        hosts: Sequence[str] = ("deepseek",),
        urls: Mapping[str, str] | None = None,
        replicas: int = 1,
        clock: str = QUIET,
        rates: str = "",
        edits: Iterable[tuple[str, str, str]] = (),
        database: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.data = folder, folder / "data"
        self.policies = folder / "policies"
        self.clock = clock
        self._stack = ExitStack()
        shutil.copytree(default_folder(), self.policies)
        (self.policies / "teams").mkdir(exist_ok=True)
        teams = list(teams)
        for team in teams:
            self._write(team)
        if rates:
            (self.policies / "rates.yaml").write_text(rates)
        for edit in edits:
            self.edit(*edit)
        self.settings = {
            "FAREGATE_DATA": str(self.data),
            "FAREGATE_POLICIES": str(self.policies),
            "FAREGATE_KEYS": ",".join(f"{team['team']}:{key_of(team['team'])}" for team in teams),
            **({"FAREGATE_LEDGER": database, "FAREGATE_KEY_PEPPER": "pepper-of-the-tests"} if database else {}),
            **(settings or {}),
        }
        with ExitStack() as stack:
            found = _at_once(stack, [partial(EmulatedHost, host, folder, clock) for host in hosts])
            self.hosts: dict[str, EmulatedHost] = dict(zip(hosts, found, strict=True))
            self._urls = {**{name: host.url for name, host in self.hosts.items()}, **(urls or {})}
            self.replicas: list[LiveGateway] = _at_once(stack, [partial(self.start, f"replica{number}") for number in range(replicas)])
            self._stack = stack.pop_all()

    def start(self, name: str) -> LiveGateway:
        """One more replica; the caller closes it."""
        place = self.folder / name
        place.mkdir()
        return LiveGateway(place, (), self.clock, self.settings, self._urls)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            if error[0] is None:
                self.quiet()
                sound = self.command("verify")
                assert sound.returncode == 0, sound.stdout + sound.stderr
            # Each takes a moment to end: all of them at the same time.
            with ThreadPoolExecutor(max(1, len(self.replicas))) as pool:
                list(pool.map(LiveGateway.close, self.replicas))

    @property
    def ledger(self) -> Path:
        return self.data / "ledger.db"

    @property
    def one(self) -> LiveGateway:
        return self.replicas[0]

    # ---- what clients do

    def chat(self, team: str, body: Mapping[str, Any], replica: int = 0, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        """One request of a team of this stage."""
        return self.chat_with(key_of(team), body, replica, path, **headers)

    def chat_with(self, key: str, body: Mapping[str, Any], replica: int = 0, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return post(self.replicas[replica].root + path, json.dumps(body).encode(), sent)

    def aside(self, team: str, body: Mapping[str, Any], replica: int = 0, **headers: str) -> Future[Answer]:
        """The same in a thread of its own."""
        return self.aside_with(key_of(team), body, replica, **headers)

    def aside_with(self, key: str, body: Mapping[str, Any], replica: int = 0, **headers: str) -> Future[Answer]:
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                future.set_result(self.chat_with(key, body, replica, **headers))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def at_once(self, team: str, bodies: Sequence[Mapping[str, Any]], **headers: str) -> list[Answer]:
        """All of them at the same time, in turn to each replica."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            sent = [pool.submit(self.chat, team, body, number % len(self.replicas), **headers) for number, body in enumerate(bodies)]
            return [future.result() for future in sent]

    def play(self, team: str, asks: Sequence[Ask]) -> list[Got]:
        """Many requests, some of whose clients leave, in turn to each replica."""

        async def all_of_them() -> list[list[Got]]:
            count = len(self.replicas)
            urls = [replica.root + "/v1/chat/completions" for replica in self.replicas]
            return list(await asyncio.gather(*(play(url, key_of(team), asks[number::count]) for number, url in enumerate(urls))))

        return [got for part in asyncio.run(all_of_them()) for got in part]

    # ---- what operators see

    def admin(self, path: str, replica: int = 0) -> Any:
        return get_json(f"{self.replicas[replica].admin_url}/admin/v1/{path}", {"authorization": f"Bearer {ADMIN}"})

    def admin_post(self, path: str, body: Any, replica: int = 0) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
        status, _, data = post(f"{self.replicas[replica].admin_url}/admin/v1/{path}", json.dumps(body).encode(), headers)
        return status, json.loads(data)

    def budgets(self, team: str, replica: int = 0) -> list[Budget]:
        return [budget_of(row) for row in self.admin(f"budgets?team={team}", replica)]

    def budget(self, team: str, name: str = "total", replica: int = 0) -> Budget:
        (found,) = [budget for budget in self.budgets(team, replica) if budget.row["budget"] == name]
        return found

    def rows(self, team: str) -> list[dict[str, Any]]:
        """The team's requests that have ended, the newest first."""
        return [row for row in self.admin("requests?limit=1000") if row["team"] == team]

    def row_of(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The row of the request that was answered with these headers, once it is settled."""
        return self.one.row(headers["x-request-id"])

    def gauge(self, name: str, replica: int = 0, **labels: str) -> int | None:
        """A gauge of money in nano-units, which is what plans go by; None where it is not there."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.replicas[replica].metrics().splitlines() if line.startswith(name + "{")]
        found = [line.rsplit(" ", 1)[1] for line in lines if all(label in line for label in wanted)]
        return round(Decimal(found[0]) * 10**9) if found else None

    def quiet(self, team: str | None = None) -> None:
        """Until no request is under way any more, and nothing is held."""

        def still() -> bool:
            return all("faregate_open_streams 0" in replica.metrics() for replica in self.replicas)

        until("every request has ended", still)
        if team is not None:
            until(f"nothing is held of {team}", lambda: all(budget.held == 0 for budget in self.budgets(team)))

    def now(self) -> datetime:
        """What the gateways' clock says."""
        return parse_instant(get_json(self.one.root + "/readyz")["clock"]["now"])

    def command(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`faregate` with the settings of these gateways, and some others."""
        own = environment(**{**self.settings, **settings})
        return prepared.run(words, own)

    # ---- what authors of policies do

    def change(self, team: Mapping[str, Any]) -> None:
        """The team's file is another one from now on, at every replica."""
        self._write(team)
        self.reload()

    def edit(self, file: str, old: str, new: str) -> None:
        """One file of the policies with other words; not read yet."""
        path = self.policies / file
        text = path.read_text()
        assert old in text, f"{file} does not say {old!r}"
        path.write_text(text.replace(old, new))

    def reload(self, status: int = 200) -> Any:
        answers = [self.admin_post("reload", {}, number) for number in range(len(self.replicas))]
        assert [found for found, _ in answers] == [status] * len(answers), answers
        return answers[0][1]

    def _write(self, team: Mapping[str, Any]) -> None:
        # JSON is YAML.
        (self.policies / "teams" / f"{team['team']}.yaml").write_text(json.dumps(team))


def _at_once(stack: ExitStack, starts: Sequence[Callable[[], Any]]) -> list[Any]:
    """What these make, all at the same time; each is closed with the stack, also where another one fails."""
    with ThreadPoolExecutor(max(1, len(starts))) as pool:
        started = [pool.submit(start) for start in starts]
    for future in started:
        if future.exception() is None:
            stack.callback(future.result().close)
    return [future.result() for future in started]


def budget_of(row: dict[str, Any]) -> Budget:
    """A budget as the admin API and the command show it."""
    limit, spent, held, peak, overrun = (nano(row[name]) for name in ("limit", "spent", "held", "peak_committed", "overrun"))
    return Budget(limit, spent, held, peak, overrun, row)


def nano(text: str) -> int:
    """A decimal amount in nano-units, exactly."""
    amount = Decimal(text) * 10**9
    assert amount == int(amount), text
    return int(amount)


def lefts(headers: Mapping[str, str]) -> dict[str, int]:
    """`x-faregate-budget-left` in nano-units: {name: left}."""
    return {name: nano(amount) for name, amount in re.findall(r"([\w.-]+)=(\S+) [A-Z]{3}", headers["x-faregate-budget-left"])}


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer[0] >= 400, f"no error: {answer}"
    found: dict[str, Any] = json.loads(answer[2])["error"]
    return found


def refusals(answers: Iterable[Answer]) -> set[tuple[int, str]]:
    """Status and code of answers that are all errors."""
    return {(answer[0], error_of(answer)["code"]) for answer in answers}
