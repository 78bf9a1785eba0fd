"""Fixtures: an emulated cluster that the command line finds, and runs on it that a test keeps alive or lets die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.lease import LeaseKeeper
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.kube.harness import KubeLocal
from tests.support.runs import attempt, make_cell, make_record
from tests.unit.cli_lake import Shown, call, lake

__all__ = ["Shown", "call", "lake"]


class Bench:
    """One run on the cluster, with its registration in the lake."""

    def __init__(self, lake: Lake, cluster: Cluster, /, *, stale_s: float, **said: Any) -> None:
        self.cluster, self.stale_s = cluster, stale_s
        self.record = make_record(make_cell(instance="g6e.xlarge", engine="vllm"), launcher="eks")
        self.run_id, self.cell_id = str(self.record["run_id"]), str(self.record["cell_id"])
        self.expires_at = datetime.now(UTC) + timedelta(minutes=30)
        self.kube = KubeSettings(lease_renew_s=0.1, lease_stale_s=stale_s)
        elsewhere = {"host_name": "another-pod", "pid": 7, "lock": "/nowhere/lock"}
        facts = {"cluster": cluster.namespace_uid(), "namespace": cluster.namespace}
        lake.begin_attempt({**attempt(self.record), **elsewhere, **facts, **said})
        anchor = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": naming.base_name(self.run_id),
                "labels": naming.labels(self.run_id, self.cell_id, "anchor"),
                "annotations": naming.annotations(self.run_id, self.expires_at, stale_s),
            },
        }
        self.anchor = cluster.create(anchor)

    def keeper(self) -> LeaseKeeper:
        return LeaseKeeper(
            self.cluster, self.run_id, self.cell_id, self.anchor, self.kube, self.expires_at, lambda: None
        )


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    with KubeLocal(tmp_path_factory.mktemp("kube"), images={}) as cluster:
        yield cluster


@pytest.fixture
def cluster(kube: KubeLocal, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The client of a clean cluster that the command line finds too."""
    for name, value in kube.env().items():
        monkeypatch.setenv(name, value)
    kube.set_faults([])
    yield Cluster.connect(KubeSettings(), agent="the-test")
    kube.set_faults([])
    left = {
        one["metadata"]["labels"][naming.RUN_LABEL] for one in kube.objects(naming.selector(), "ConfigMap")
    }
    for run12 in left:
        kube_client = Cluster.connect(KubeSettings(), agent="the-test")
        kube_client.delete("ConfigMap", f"{naming.PREFIX}-{run12}")
    kube.wait_gone(naming.selector())


@pytest.fixture
def run_of(lake: Lake, cluster: Cluster) -> Callable[..., Bench]:
    """Makes a run with its anchor and its attempt; the Lease is the test's business."""

    def make(*, stale_s: float = 60.0, **said: Any) -> Bench:
        return Bench(lake, cluster, stale_s=stale_s, **said)

    return make


@contextmanager
def dead_lease(one: Bench) -> Iterator[None]:
    """A Lease that nobody renews any more."""
    with one.keeper():
        pass
    yield
