"""The chart for tests: rendered by real Helm, in the environment of `make checks`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.servers import missing

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "faregate"
EXAMPLES = {"": {}, **{file.stem: yaml.safe_load(file.read_text()) for file in sorted((CHART / "examples").glob("*.yaml"))}}
KUBERNETES = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]

Object = dict[str, Any]
Values = Mapping[str, Any]


def checker(name: str) -> Path:
    """A program of `make checks`; without it, the test fails in CI and is skipped elsewhere."""
    found = ROOT / ".venv" / "checks" / "bin" / name
    return found if found.exists() else missing("the checkers are not installed: run `make checks`")


class HelmFailed(Exception):
    """Helm refused: by the values' schema, or a template did."""


class Helm:
    """One process of Helm for many renderings."""

    def __init__(self) -> None:
        worker = [checker("python"), Path(__file__).with_name("chart_worker.py"), CHART]
        self._process = subprocess.Popen(
            [str(word) for word in worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"Helm's process ended with {self._process.wait(5)}: see .venv/checks"
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise HelmFailed(said["message"])
        return said

    def files(self, values: Values, name: str = "trial") -> dict[str, str]:
        """Text by template. Raises HelmFailed."""
        found: dict[str, str] = self.ask("render", values=dict(values), name=name)["files"]
        return found

    def objects(self, values: Values, name: str = "trial") -> list[Object]:
        """Every object that would be sent to a cluster. Raises HelmFailed."""
        texts = (text for file, text in self.files(values, name).items() if not file.endswith("NOTES.txt"))
        return [found for text in texts for found in yaml.safe_load_all(text) if found]

    def problems(self, objects: list[Object], versions: list[str]) -> tuple[list[str], list[str]]:
        """What Kubernetes' schemas find, and the kinds that they do not know."""
        said = self.ask("validate", objects=objects, versions=versions)
        return said["problems"], said["unknown"]


def only(objects: list[Object], kind: str) -> Object:
    """The one object of a kind."""
    found = [one for one in objects if one["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def workload(objects: list[Object]) -> Object:
    return next(one for one in objects if one["kind"] in ("StatefulSet", "Deployment"))


def pod(objects: list[Object]) -> Object:
    found: Object = workload(objects)["spec"]["template"]
    return found


def container(objects: list[Object]) -> Object:
    found: Object = pod(objects)["spec"]["containers"][0]
    return found


def environment_of(objects: list[Object]) -> dict[str, str]:
    """The variables of the gateway's container."""
    return {entry["name"]: entry["value"] for entry in container(objects)["env"]}
