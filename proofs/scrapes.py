"""A real Prometheus for proofs and tests: it scrapes live gateways every second, or holds what was scraped on a faster clock."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dashboards.ask import Prometheus
from tests.servers import Server, free_port, program, talks

JOB: Final = "faregate"


def config_of(targets: Mapping[str, str], every: str = "1s", rules: Sequence[Path] = ()) -> str:
    """A configuration that scrapes these addresses (HOST:PORT) under these instance names; JSON is YAML."""
    static = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
    scrapes = [{"job_name": JOB, "static_configs": static}] if targets else []
    times = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    return json.dumps({"global": times, "scrape_configs": scrapes, "rule_files": [str(path) for path in rules]})


class PrometheusServer(Server):
    """Debian's Prometheus on a port of its own, with its data in `folder`."""

    def __init__(self, folder: Path, config: str, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.data = folder / "data"
        (folder / "prometheus.yml").write_text(config)
        words = [
            program("prometheus", "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--storage.tsdb.retention.time=20y",
            "--log.level=warn",
            *options,
        ]
        ready = b"GET /-/ready HTTP/1.0\r\n\r\n"
        super().__init__(words, folder, lambda: talks(self.port, ready, b"HTTP/1.0 200"))

    @property
    def api(self) -> Prometheus:
        return Prometheus(f"http://127.0.0.1:{self.port}")


class Recorder:
    """Scrapes gateways at instants of their own clock, so that an hour of theirs is an hour in Prometheus.

    `began`: when the gateways started, by it; it runs `rate` times as fast.
    `take` is one scrape of all; `blocks` writes what was taken as blocks that a Prometheus reads at its start.
    """

    def __init__(self, admins: Mapping[str, str], began: float, rate: float) -> None:
        self._admins, self._began, self._rate = dict(admins), began, rate
        self._texts: list[str] = []

    def take(self, at: float) -> None:
        """One scrape; `at` are seconds since 1970 by the gateways' clock."""
        for name, admin in self._admins.items():
            with urllib.request.urlopen(admin + "/metrics", timeout=10) as answer:
                text: str = answer.read().decode()
            self._texts.append(
                "".join(_sample(line, name, at, self._began, self._rate) for line in text.splitlines() if line and line[0] != "#")
            )

    def blocks(self, folder: Path) -> None:
        """What was taken as blocks in `folder`, the data folder of a Prometheus that has not started yet."""
        write_blocks("".join(self._texts), folder)


def write_blocks(samples: str, folder: Path) -> None:
    """Lines of OpenMetrics with their instants, as blocks in the data folder of a Prometheus that has not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.om"
    path.write_text(samples + "# EOF\n")
    command = [program("promtool", "prometheus"), "tsdb", "create-blocks-from", "openmetrics", str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path.unlink()


def _sample(line: str, instance: str, at: float, began: float, rate: float) -> str:
    """A line of the exposition with job and instance, and the instant at which it was taken."""
    series, _, value = line.rpartition(" ")
    name, brace, labels = series.partition("{")
    if name == "faregate_clock_shift_seconds":
        # In the recording the gateway's clock is the only one.
        value = "0"
    elif name == "process_start_time_seconds":
        value = f"{began:.3f}"
    elif name == "process_cpu_seconds_total":
        # Seconds of the machine, in an hour that was over sooner.
        value = f"{float(value) * rate:.3f}"
    own = f'job="{JOB}",instance="{instance}"'
    return f"{name}{{{own}{',' + labels if brace else '}'} {value} {at:.3f}\n"
