"""Logs of pods into files: one thread a container run, progress lines aside, secrets never."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.follow import INDEX_LABEL, LogFollower


class Logs:
    """Stands for the cluster: what each run of a container says, by pod."""

    def __init__(self, **runs: list[list[str]]) -> None:
        self.runs = runs
        self.opened: list[str] = []

    def follow_log(self, pod: str, container: str, *, stop: threading.Event) -> Iterator[str]:
        self.opened.append(pod)
        run = self.runs[pod].pop(0)
        for line in run:
            if line == "forbidden":
                raise KubeError("Kubernetes refused it.", code="api_denied", status=403)
            if line == "waits":
                stop.wait(600)
                return
            yield line


def pod(name: str, *, restarts: int = 0, state: str = "running", index: int | None = None) -> dict[str, Any]:
    status = {"name": "c", "restartCount": restarts, "state": {state: {"startedAt": "x"}}}
    labels = {} if index is None else {INDEX_LABEL: str(index)}
    return {"metadata": {"name": name, "labels": labels}, "status": {"containerStatuses": [status]}}


def follower(logs: Logs, folder: Path, **more: Any) -> LogFollower:
    return LogFollower(cast("Cluster", logs), folder, "engine", "c", **more)


def test_each_run_of_a_container_is_followed_once(tmp_path: Path) -> None:
    logs = Logs(a=[["one", "two"], ["three"]], b=[["other"]])
    found = follower(logs, tmp_path)
    found.see([pod("a", state="waiting"), pod("b", state="waiting")])
    assert logs.opened == []
    for _ in range(3):
        found.see([pod("a"), pod("b")])
    found.drain(60)
    found.see([pod("a", restarts=1)])
    found.drain(60)
    first = (tmp_path / "engine-0.log").read_text().splitlines()
    assert first == ["one", "two", "--- the container was started again ---", "three"]
    assert (tmp_path / "engine-1.log").read_text() == "other\n"
    assert found.path("b") == tmp_path / "engine-1.log"
    assert found.path("c") is None


def test_listened_to_lines_go_elsewhere_by_completion_index(tmp_path: Path) -> None:
    logs = Logs(x=[['{"event": 1}', "plain"]])
    found = follower(logs, tmp_path, listen=lambda line: line.startswith("{"))
    found.see([pod("x", index=3)])
    found.drain(60)
    assert list(found.lines()) == [(3, '{"event": 1}')]
    assert list(found.lines()) == []
    assert (tmp_path / "engine-3.log").read_text() == "plain\n"


def test_secrets_never_reach_the_file(tmp_path: Path) -> None:
    logs = Logs(a=[["token hf_abcdefghijklmnop", "value opaque-0452-opaque"]])
    found = follower(logs, tmp_path, secrets=("opaque-0452-opaque",))
    found.see([pod("a")])
    found.drain(60)
    assert (tmp_path / "engine-0.log").read_text() == "token ****\nvalue ****\n"


def test_a_refusal_ends_the_log_and_nothing_else(tmp_path: Path) -> None:
    found = follower(Logs(a=[["one", "forbidden"]]), tmp_path)
    found.see([pod("a")])
    found.drain(60)
    assert "the log ends here: Kubernetes refused it" in (tmp_path / "engine-0.log").read_text()


def test_closing_wakes_who_waits(tmp_path: Path) -> None:
    found = follower(Logs(a=[["one", "waits"]]), tmp_path)
    found.see([pod("a")])
    began = time.monotonic()
    found.close(600)
    assert time.monotonic() - began < 60
    assert (tmp_path / "engine-0.log").read_text() == "one\n"
