"""Interrupts at any point of a run leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube.client import Cluster
from tests.launch.eks.conftest import WAITS, MakeBench, stand_in
from tests.launch.kube.harness import KubeLocal


class Interrupting(Cluster):
    """Interrupts this process after (or before) its first call of *verb* on *kind*."""

    point: tuple[str, str, str] = ("", "", "")

    def _strike(self, when: str, verb: str, kind: str) -> None:
        if self.point == (when, verb, kind) and threading.current_thread() is threading.main_thread():
            self.point = ("", "", "")
            raise KeyboardInterrupt

    def create(self, manifest: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        self._strike("before", "create", manifest["kind"])
        found = super().create(manifest, **more)
        self._strike("after", "create", manifest["kind"])
        return found

    def get(self, kind: str, name: str, **more: Any) -> dict[str, Any] | None:
        self._strike("before", "get", kind)
        return super().get(kind, name, **more)

    def list(self, kind: str, **more: Any) -> list[dict[str, Any]]:
        self._strike("before", "list", kind)
        return super().list(kind, **more)


POINTS = [
    *[
        (when, "create", kind)
        for kind in ("ConfigMap", "Lease", "Service", "Deployment")
        for when in ("before", "after")
    ],
    ("before", "list", "Pod"),
    ("before", "get", "Node"),
    ("before", "list", "Event"),
]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_an_interrupted_start_leaves_nothing(make: MakeBench, point: tuple[str, str, str]) -> None:
    bench = make()
    cluster = Interrupting.connect(bench.launcher._kube)
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, cluster=cluster)
    cluster.point = point
    with pytest.raises(KeyboardInterrupt), bench.serving():
        pass
    assert cluster.point == ("", "", "")
    bench.await_nothing_left()


def test_an_interrupted_load_leaves_nothing(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS))

    def interrupting(kind: str, message: str, data: Mapping[str, Any]) -> None:
        if kind == "progress":
            raise KeyboardInterrupt

    bench.on_event = interrupting  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), bench.serving() as endpoint:
        bench.drive(endpoint, bench.plan(endpoint))
    bench.await_nothing_left()
