"""Starts that fail say why and leave nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from accelbench_assets.errors import DeadlineExceeded, LaunchError
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.naming import run12
from tests.launch.eks.conftest import Bench, MakeBench
from tests.launch.kube.harness import KubeLocal


@pytest.mark.parametrize(
    ("do", "code", "more"),
    [
        ("image_pull_not_found", "image_pull", {}),
        ("image_pull_denied", "image_pull", {}),
        ("image_pull_network", "image_pull", {"start_s": 3.0}),
        ("oom", "oom", {}),
        ("crash", "crash_loop", {}),
        ("gated", "gated_model", {}),
        ("does_not_fit", "does_not_fit", {}),
        ("unschedulable", "unschedulable", {"provisioning_s": 2.0}),
        ("quota", "quota", {}),
        ("forbid", "bad_config", {}),
        ("missing_secret", "bad_config", {"start_s": 3.0}),
        ("hang_not_ready", "not_ready", {"start_s": 2.0}),
    ],
)
def test_a_start_that_fails_says_why(
    make: MakeBench, kube: KubeLocal, do: str, code: str, more: dict[str, Any]
) -> None:
    image = f"vllm/vllm-openai:{do}"  # one that no node holds yet
    bench = make(engine_images={"vllm": image}, **more)
    kube.set_faults([{"pod": image, "do": do}])
    error = bench.failure()
    assert error.code == code, error
    assert error.hint
    bench.await_nothing_left()


def test_an_instance_the_cluster_has_not_is_unschedulable(make: MakeBench) -> None:
    error = make(instance="g6e.2xlarge", provisioning_s=2.0).failure()
    assert error.code == "unschedulable"
    assert "node affinity/selector" in error.message
    assert "NodePool" in (error.hint or "")


def test_a_node_aws_does_not_have_is_no_capacity(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(instance="g6e.2xlarge", provisioning_s=2.0)
    text = "creating instance, InsufficientInstanceCapacity: there is no g6e.2xlarge in us-east-1a"

    def refuse(kind: str, message: str, data: Mapping[str, Any]) -> None:
        bench.events.append((kind, message, data))
        limit = time.monotonic() + 60
        while message.startswith("waiting for a node") and not told and time.monotonic() < limit:
            for pod in kube.objects(f"accelbench.io/run={run12(bench.spec.run_id)}", "Pod"):
                told.append(post_event(kube, pod, "FailedScheduling", text))
            time.sleep(0.02)

    told: list[str] = []
    bench.on_event = refuse  # type: ignore[method-assign]
    error = bench.failure()
    assert told
    assert error.code == "no_capacity", error
    assert text in error.message


def post_event(kube: KubeLocal, pod: dict[str, Any], reason: str, message: str) -> str:
    """An event about *pod*, as Karpenter writes them; its name."""
    meta = pod["metadata"]
    about = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.1", "namespace": meta["namespace"]},
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "type": "Warning",
        "source": {"component": "karpenter"},
    }
    kube.control("POST", f"/api/v1/namespaces/{meta['namespace']}/events", body)
    return str(body["metadata"]["name"])


def evicting(
    bench: Bench, kube: KubeLocal, image: str, then: list[dict[str, Any]], *, after_s: float = 0.0
) -> None:
    """Evict the server when it has a node, *after_s* seconds later; *then* is what befalls the pod that follows."""

    def evict(kind: str, message: str, data: Mapping[str, Any]) -> None:
        bench.events.append((kind, message, data))
        if message.startswith("loading weights") and not evicted:
            (pod,) = kube.objects(f"accelbench.io/run={run12(bench.spec.run_id)}", "Pod")
            time.sleep(after_s)
            kube.set_faults([{"pod": image, **fault} for fault in then])
            evicted.append(pod["metadata"]["name"])
            kube.evict(evicted[0])

    evicted: list[str] = []
    bench.on_event = evict  # type: ignore[method-assign]
    kube.set_faults([{"pod": image, "do": "hang_not_ready", "times": 1}])


def test_an_evicted_server_that_finds_no_other_node_was_evicted(make: MakeBench, kube: KubeLocal) -> None:
    image = "vllm/vllm-openai:evicted"
    bench = make(engine_images={"vllm": image}, provisioning_s=2.0)
    evicting(bench, kube, image, [{"do": "unschedulable"}])
    error = bench.failure()
    assert error.code == "evicted", error
    assert "No node took pod" in error.message


def test_the_time_for_a_node_starts_anew_after_an_eviction(make: MakeBench, kube: KubeLocal) -> None:
    image = "vllm/vllm-openai:evicted-late"
    bench = make(engine_images={"vllm": image}, provisioning_s=3.0)
    evicting(bench, kube, image, [{"do": "slow_schedule", "after_s": 0.6}], after_s=3.0)
    with bench.serving() as endpoint:
        assert endpoint.facts["ready_s"] > 3.0


def test_the_deadline_ends_a_start(make: MakeBench, kube: KubeLocal) -> None:
    image = "vllm/vllm-openai:hangs"
    bench = make(engine_images={"vllm": image})
    kube.set_faults([{"pod": image, "do": "hang_not_ready"}])
    with pytest.raises(DeadlineExceeded), bench.serving(seconds=1.0):
        pass


def test_a_lake_on_this_machine_is_refused_where_pods_are_elsewhere(make: MakeBench) -> None:
    class Real(Cluster):
        def emulated(self) -> bool:
            return False

    bench = make()
    launcher = EksLauncher(bench.launcher._settings, bench.out, cluster=Real.connect(bench.launcher._kube))
    with pytest.raises(LaunchError, match="S3"):
        launcher.attempt_facts()


def test_a_run_somebody_else_works_on_is_left_alone(make: MakeBench, kube: KubeLocal) -> None:
    first, second = make(), make()
    second.spec = first.spec
    with first.serving() as endpoint:
        for item in kube.objects(f"accelbench.io/run={run12(first.spec.run_id)}"):
            if item["kind"] == "Lease":
                body = {"spec": {"holderIdentity": "another_1"}}
                Cluster.connect(first.launcher._kube).patch("Lease", item["metadata"]["name"], body)
        with pytest.raises(LaunchError) as caught, second.serving():
            pass
        assert caught.value.code == "conflict"
        assert "another_1" in caught.value.message
        endpoint.check_alive()
