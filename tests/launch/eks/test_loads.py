"""Loads that do not come to their end: lost nodes, dead servers, failing generators, cancelled runs, deadlines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import AccelBenchError, DeadlineExceeded, LaunchError
from accelbench_assets.launch import eks
from accelbench_assets.launch.base import Endpoint
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube import driving
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.lease import request_cancel
from accelbench_assets.launch.kube.naming import labels, plan_name
from tests.launch.eks.conftest import WAITS, Bench, MakeBench, stand_in, when_said
from tests.launch.kube.harness import KubeLocal


def shards(bench: Bench) -> list[dict[str, Any]]:
    folder = Path(bench.out.removeprefix("file://"))
    return [json.loads(path.read_text()) for path in sorted(folder.glob("shard=*/shard.json"))]


def fail_in_load(bench: Bench, what: Callable[[Endpoint], object], **plan: Any) -> AccelBenchError:
    try:
        with bench.serving() as endpoint:
            when_said(bench, "progress", lambda: what(endpoint))
            bench.drive(endpoint, bench.plan(endpoint, **plan))
    except AccelBenchError as error:
        return error
    raise AssertionError("nothing failed")


def test_a_node_lost_in_mid_load(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS))
    error = fail_in_load(
        bench, lambda endpoint: kube.make_node_unready(endpoint.facts["node_name"], after_s=0)
    )
    for node in ("gpu-1", "gpu-2"):
        kube.make_node_ready(node)
    assert isinstance(error, LaunchError)
    assert error.code == "node_lost"
    assert "Kubelet stopped posting node status" in error.message


def test_a_server_evicted_in_mid_load(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS))

    def evict(_: Endpoint) -> None:
        names = [
            name.partition("/")[2]
            for name in bench.left()
            if name.startswith("Pod/") and "-load-" not in name
        ]
        kube.evict(names[0])

    assert fail_in_load(bench, evict).code == "evicted"


def test_a_server_that_crashes_in_mid_load(make: MakeBench, kube: KubeLocal, tmp_path: Path) -> None:
    image = "vllm/vllm-openai:crashes"
    bench = make(loadgen=stand_in(kube, WAITS), engine_images={"vllm": image})
    now = tmp_path / "now"
    kube.set_faults([{"pod": image, "do": "crash", "when": str(now)}])
    error = fail_in_load(bench, lambda _: now.touch())
    assert isinstance(error, LaunchError)
    assert error.code == "crashed"
    assert "exit code 1" in error.message
    assert "Engine core initialization failed" in str(error.hint)


def test_a_cancelled_load_keeps_what_it_measured(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS))
    cluster = Cluster.connect(bench.launcher._kube)
    error = fail_in_load(bench, lambda _: request_cancel(cluster, bench.spec.run_id, "somebody"))
    assert error.code == "cancelled"
    assert "somebody" in error.message
    assert shards(bench) == [{"shard": 0, "complete": False}]


FAILURES = [
    ('sys.exit("error: the server answers with rubbish")', "loadgen_failed", "rubbish"),
    ('print("error: the disk is full", file=sys.stderr); sys.exit(1)', "disk_full", "disk is full"),
    ("os.kill(os.getpid(), 9)", "loadgen_failed", "signal 9"),
]


def test_a_generator_that_fails(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, ""))
    with bench.serving() as endpoint:
        for body, code, words in FAILURES:
            stand_in(kube, body)
            (bench.spec.work_dir / "loadgen-0.log").unlink(missing_ok=True)
            with pytest.raises(LaunchError, match=words) as caught:
                bench.drive(endpoint, bench.plan(endpoint))
            assert caught.value.code == code
        stand_in(kube, 'sys.exit("error: the deadline of 3 s passed")')
        with pytest.raises(DeadlineExceeded, match="of 3 s passed"):
            bench.drive(endpoint, bench.plan(endpoint))
        endpoint.check_alive()


def test_our_deadline_ends_a_load(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS))
    with bench.serving() as endpoint, pytest.raises(DeadlineExceeded):
        bench.drive(endpoint, bench.plan(endpoint), seconds=1.0)


TOGETHER = """
say(event="calibrated")
time.sleep(max(0, plan["start_at_unix"] - time.time()))
leave(start=plan["start_at_unix"])
"""


def test_shards_that_are_not_there_in_time_start_anew(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, TOGETHER))
    kube.set_faults([{"pod": "-load-1", "do": "slow_schedule", "after_s": 1.5, "times": 1}])
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, start_allowances_s=(1.5, 4.0, 30.0))
    with bench.serving() as endpoint:
        manifest = bench.drive(endpoint, bench.plan(endpoint, shards=2))
    assert any("start anew" in text for text in bench.said("warning"))
    first, second = (shard["start"] for shard in manifest.shards)
    assert first == second


def test_a_shard_that_runs_but_is_not_calibrated_is_late(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, "time.sleep(600 * (shard == 1))" + TOGETHER))
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, start_allowances_s=(0.5, 5.0))
    with bench.serving() as endpoint:
        with pytest.raises(LaunchError, match="shard 1 was not calibrated") as caught:
            bench.drive(endpoint, bench.plan(endpoint, shards=2))
        assert caught.value.code == "loadgen_failed"
        assert sum("start anew" in text for text in bench.said("warning")) == 1
        assert not [name for name in bench.left() if "-load" in name or "-plan" in name]


def test_a_first_try_that_does_not_go_is_not_taken_for_the_second(
    make: MakeBench, kube: KubeLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "GONE_S", 0.5)
    bench = make(loadgen=stand_in(kube, "time.sleep(600)"))
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, start_allowances_s=(1.0, 1.0))
    kube.set_faults([{"do": "deny", "match": {"verb": "delete", "resource": "jobs"}}])
    with bench.serving() as endpoint:
        with pytest.raises(LaunchError, match=r"An earlier try .* is not gone") as caught:
            bench.drive(endpoint, bench.plan(endpoint, shards=2))
        kube.set_faults([])
    assert caught.value.code == "loadgen_failed"
    assert "Job" in caught.value.message


def test_a_job_that_is_there_already_is_not_ours(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, TOGETHER))
    cluster = Cluster.connect(bench.launcher._kube)
    with bench.serving() as endpoint:
        cell_id = bench.spec.cell.cell_id
        left = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": plan_name(bench.spec.run_id),
                "labels": labels(bench.spec.run_id, cell_id, "plan"),
            },
            "data": {"plan.json": "{}"},
        }
        cluster.create(left)
        with pytest.raises(LaunchError, match="of an earlier try"):
            bench.drive(endpoint, bench.plan(endpoint))


def test_an_api_that_is_away_does_not_end_a_load(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(
        loadgen=stand_in(kube, 'say(event="progress", step_index=0)\ntime.sleep(3)\nleave(complete=True)')
    )
    impatient = Cluster.connect(bench.launcher._kube, retry_s=0.1)
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, cluster=impatient)
    away = {"do": "status", "status": 503, "match": {"verb": "list", "resource": "pods"}, "times": 12}
    with bench.serving() as endpoint:
        when_said(bench, "progress", lambda: kube.set_faults([away]))
        manifest = bench.drive(endpoint, bench.plan(endpoint))
    assert manifest.shards[0]["complete"]
    assert sum("cannot be looked at" in text for text in bench.said("warning")) == 1


def test_a_load_without_the_api_ends_with_its_lease(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, WAITS), lease_stale_s=4.0)
    impatient = Cluster.connect(bench.launcher._kube, retry_s=0.1)
    bench.launcher = EksLauncher(bench.launcher._settings, bench.out, cluster=impatient)
    verbs = [{"do": "status", "status": 503, "match": {"verb": verb}} for verb in ("list", "get", "patch")]
    with contextlib.suppress(LaunchError), bench.serving() as endpoint:
        when_said(bench, "progress", lambda: kube.set_faults(verbs))
        with pytest.raises(LaunchError) as caught:
            bench.drive(endpoint, bench.plan(endpoint))
        kube.set_faults([])
    assert caught.value.code == "lease_lost"


def test_when_servers_were_torn_down_is_said_only_if_they_were(
    make: MakeBench, kube: KubeLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    with bench.serving() as gone:
        pass
    assert gone.facts["torn_down_at"] is not None
    monkeypatch.setattr(eks, "LIMIT_S", 7.0)
    other = make()
    with other.serving() as endpoint:
        kube.set_faults([{"do": "deny", "match": {"verb": "delete", "resource": "deployments"}, "times": 1}])
    assert endpoint.facts.get("torn_down_at") is None
    assert any("Deployment" in text and "could not be deleted" in text for text in other.said("warning"))
