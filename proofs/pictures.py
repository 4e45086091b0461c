"""`make pictures`: a working day of four teams before three gateways, and a picture of each dashboard over it, into docs/pictures/.

    python -m proofs.pictures [--out DIR] [--minutes N] [--height N] [--keep]

Gateways, PostgreSQL, Redis and emulated hosts are real processes, whose clocks run fast: ten hours pass in three minutes. What they
show on /metrics is taken every three minutes of their time and put into a real Prometheus, which then answers the panels' own queries. The
answers are drawn here, by code of our own, in headless Chromium: it is not a screenshot of Grafana. `--keep` leaves the HTML there too.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from dashboards.ask import Prometheus, Series, View, asked, questions
from dashboards.builder.__main__ import built
from dashboards.draw.page import WIDTH, Page
from dashboards.draw.png import reduced
from gateway.clock import instant_text, parse_instant
from proofs.crowd import Crowd, Day
from proofs.fleet import clean_up_when_told
from proofs.panels import Setting, Timetable, begin, reconcile, scene, targets, trouble, unanswered
from proofs.scrapes import PrometheusServer, Recorder, config_of
from tests.replicas import Stage
from tests.servers import program

Json = dict[str, Any]
OUT: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
# A quarter past eight in Beijing, of a Friday; peak prices are from nine to twelve and from two to six.
BEGIN: Final = parse_instant("2026-11-20T00:15:00Z")
HOURS: Final = 10.0
ZONE: Final = timedelta(hours=8)
SCRAPE: Final = 180.0
# Real seconds in which everything has started.
STARTS: Final = 14.0
# What the teams may spend a day, of what this day comes to.
AMOUNTS: Final = {"search": "2.00", "support": "0.12", "research": "1.20"}
ABOUT: Final = (
    "Drawn by <b>make pictures</b> from the answers of a real Prometheus to the panels' own queries; not a screenshot of Grafana. "
    "Three gateways, PostgreSQL, Redis and three emulated hosts, whose clocks ran {rate:.0f} times as fast: {hours:.0f} hours of Friday, "
    "2026-11-20, Beijing time, with {requests:,} requests."
)


@dataclass(frozen=True)
class Reel:
    """How long the day is played (real minutes), and how many requests a second at its height."""

    minutes: float = 3.0
    height: float = 14.0

    @property
    def seconds(self) -> float:
        return 60 * self.minutes

    @property
    def rate(self) -> float:
        return 3600 * HOURS / self.seconds


def played(stage: Stage, reel: Reel, since: datetime, recorder: Recorder) -> Crowd:
    """The day, with a scrape of all gateways every three minutes of it."""
    crowd = Crowd(
        [replica.root + "/v1/chat/completions" for replica in stage.replicas],
        Day(reel.seconds, reel.height, prompt=30_000, answer=350, paced=5.0, chunk=16),
    )
    time.sleep(max(0.0, (since - datetime.now(UTC)).total_seconds()))
    begin(stage, reel.rate)
    over = threading.Event()

    def scrape() -> None:
        number = 0
        while not over.is_set():
            recorder.take(BEGIN.timestamp() + number * SCRAPE)
            number += 1
            over.wait(max(0.0, (since - datetime.now(UTC)).total_seconds() + number * SCRAPE / reel.rate))

    scraper = threading.Thread(target=scrape, daemon=True)
    scraper.start()
    with Timetable(reel.seconds, [*trouble(stage), *((part / 8, lambda: reconcile(stage)) for part in range(1, 8))]):
        asyncio.run(crowd.play())
    over.set()
    scraper.join()
    return crowd


def page_of(board: Json, prometheus: Prometheus, view: View, about: str) -> Page:
    """A dashboard with the answers to all of its queries."""
    answers: dict[str, list[tuple[Any, list[Series]]]] = {}
    asked_all = iter([(question, asked(prometheus, question, board, view)) for question in questions(board)])
    for number, panel in enumerate(board["panels"]):
        answers[f"{number}"] = [next(asked_all) for _ in panel.get("targets", ())]
    marks = [stretch for _, found in asked_all for series in found for stretch in _stretches(series, view)]
    return Page(board, answers, view, sorted(set(marks)), about)


def _stretches(series: Series, view: View) -> list[tuple[float, float]]:
    """From when to when there are values, without a pause."""
    found: list[tuple[float, float]] = []
    for at, _ in series.points:
        if found and at - found[-1][1] <= 1.5 * view.step:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found


def photographed(page: Page, path: Path, folder: Path) -> None:
    """The page as a PNG, in headless Chromium."""
    source = folder / f"{path.stem}.html"
    source.write_text(page.html())
    words = [
        program("chromium", "chromium", ("/usr/lib/chromium",)), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--force-device-scale-factor=1", f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{page.height}",
        f"--screenshot={path}", f"file://{source}",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert path.exists(), done.stderr
    path.write_bytes(reduced(path.read_bytes()))


def film(reel: Reel, out: Path, keep: bool) -> list[str]:
    """Plays the day and draws the five pictures; a line for each query that found nothing in it."""
    since = datetime.now(UTC) + timedelta(seconds=STARTS)
    clock = f"{instant_text(BEGIN)}*{reel.rate:g}@{since.isoformat()}"
    with scene(Setting(clock=clock, amounts=AMOUNTS)) as stage, TemporaryDirectory(prefix="faregate-pictures-") as name:
        folder = Path(name)
        recorder = Recorder({one: f"http://{address}" for one, address in targets(stage).items()}, BEGIN.timestamp() + 1, reel.rate)
        crowd = played(stage, reel, since, recorder)
        stage.quiet()
        print(f"{crowd.seen.total()} requests: {dict(crowd.seen)} {dict(crowd.trouble) or ''}", file=sys.stderr)
        return _draw(recorder, folder, ABOUT.format(rate=reel.rate, hours=HOURS, requests=crowd.seen.total()), out, keep)


def _draw(recorder: Recorder, folder: Path, about: str, out: Path, keep: bool) -> list[str]:
    server = PrometheusServer(folder / "prometheus", config_of({}), "--query.lookback-delta=270s")
    recorder.blocks(server.data)
    view = View(BEGIN.timestamp(), BEGIN.timestamp() + 3600 * HOURS - SCRAPE, SCRAPE, zone=ZONE)
    try:
        server.start()
        out.mkdir(parents=True, exist_ok=True)
        for name, board in built().items():
            path = out / f"{name}.png"
            photographed(page_of(board, server.api, view, about), path, folder)
            print(f"{path.name}: {path.stat().st_size // 1024} KiB", file=sys.stderr)
            if keep:
                shutil.copy(folder / f"{name}.html", out)
        return unanswered(server.api, view)[1]
    finally:
        server.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.pictures", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=OUT, help="default: docs/pictures")
    parser.add_argument("--minutes", type=float, default=3.0, help="real minutes of the ten hours (default 3)")
    parser.add_argument("--height", type=float, default=14.0, help="requests a second at the height of the day (default 14)")
    parser.add_argument("--keep", action="store_true", help="leave the HTML beside the pictures")
    options = parser.parse_args(arguments)
    clean_up_when_told()
    problems = film(Reel(options.minutes, options.height), options.out, options.keep)
    print("\n".join(problems) or "Every query of every panel has an answer in it.", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
