"""The launcher on the emulated cluster: real Deployment, Service, Job, pods and files; the truth server serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from accelbench_assets.launch.kube.naming import run12
from tests.launch.eks.conftest import MakeBench, stand_in
from tests.launch.kube.harness import KubeLocal


def test_one_replica_from_deployment_to_samples(make: MakeBench) -> None:
    bench = make()
    assert {"cluster", "namespace"} <= set(bench.launcher.attempt_facts())
    with bench.serving() as endpoint:
        facts = endpoint.facts
        assert facts["origin"] == "simulated"  # though its node says aws:///
        assert facts["hardware"] == "observed"
        assert facts["launcher"] == "eks"
        assert facts["zone"] == "us-east-1a"
        assert facts["node_name"] in ("gpu-1", "gpu-2")
        assert facts["accelerators_used"] == 1
        assert facts["weights_s"] == 0.4  # as the server's log says
        assert facts["image_pull_s"] is not None
        assert 0 <= facts["provision_s"] <= facts["ready_s"]
        assert facts["ready_at"] >= facts["first_probe_at"]
        assert [target.kind for target in endpoint.scrape] == ["engine", "dcgm"]
        (replica,) = endpoint.replicas
        assert not replica.base_url.endswith(replica.replica_id)  # by its Service, named by its pod
        manifest = bench.drive(endpoint, bench.plan(endpoint))
        endpoint.check_alive()
    assert manifest.shards[0]["complete"] is True
    assert manifest.shards[0]["rows"] > 0
    assert facts["torn_down_at"] > facts["ready_at"]
    assert "Loading weights took 0.40 seconds" in (bench.spec.work_dir / "engine-0.log").read_text()
    phases = bench.said("phase")
    assert any("ready" in text for text in phases)
    assert bench.said("progress")


def test_two_replicas_and_two_shards(make: MakeBench) -> None:
    bench = make(replicas=2)
    with bench.serving() as endpoint:
        assert endpoint.facts["instance_count"] == 2
        assert len({replica.base_url for replica in endpoint.replicas}) == 2
        assert all(replica.base_url == f"http://{replica.replica_id}" for replica in endpoint.replicas)
        manifest = bench.drive(endpoint, bench.plan(endpoint, shards=2))
    assert [shard["shard"] for shard in manifest.shards] == [0, 1]
    starts = [json.loads((bench.spec.work_dir / "plan.json").read_text())["start_at_unix"]]
    assert starts[0] > 0
    assert {data.get("shard") for kind, _, data in bench.events if kind == "progress"} == {0, 1}


def test_a_passing_failure_is_waited_out(make: MakeBench, kube: KubeLocal) -> None:
    bench = make()
    kube.set_faults([{"pod": "vllm-openai", "do": "crash", "times": 1}])
    with bench.serving() as endpoint:
        endpoint.check_alive()  # the restart before it was ready is not held against it
    assert [one["hits"] for one in kube.faults()] == [1]


def test_a_node_lost_while_starting_is_replaced(make: MakeBench, kube: KubeLocal) -> None:
    image = "vllm/vllm-openai:hangs-once"
    bench = make(engine_images={"vllm": image})
    kube.set_faults([{"pod": image, "do": "hang_not_ready", "times": 1}])

    def lose(kind: str, message: str, data: Mapping[str, Any]) -> None:
        bench.events.append((kind, message, data))
        if message.startswith("loading weights") and not bench.said("warning"):
            label = f"accelbench.io/run={run12(bench.spec.run_id)}"
            (pod,) = kube.objects(label, "Pod")
            lost.append(pod["spec"]["nodeName"])
            kube.make_node_unready(lost[0], after_s=0)

    lost: list[str] = []
    bench.on_event = lose  # type: ignore[method-assign]
    with bench.serving() as endpoint:
        assert endpoint.facts["node_name"] not in lost
    assert any("A new pod takes its place" in text for text in bench.said("warning"))
    kube.make_node_ready(lost[0])


def test_without_the_right_to_read_nodes_and_events_it_still_serves(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(probe="proxy")
    kube.set_faults(
        [{"match": {"resource": "nodes"}, "do": "deny"}, {"match": {"resource": "events"}, "do": "deny"}]
    )
    with bench.serving() as endpoint:
        facts = endpoint.facts
        endpoint.check_alive()
    assert (facts["origin"], facts["host_fingerprint"], facts["image_pull_s"]) == ("simulated", None, None)
    assert facts["provision_s"] is not None
    assert facts["max_model_len"] == 512  # asked through the API server


def test_an_api_that_fails_now_and_then(make: MakeBench, kube: KubeLocal) -> None:
    bench = make(loadgen=stand_in(kube, "leave(complete=True)"))
    faults = [
        {"match": {}, "share": 0.1, "do": "status", "status": 500},
        {"match": {}, "share": 0.05, "do": "drop"},
        {"match": {}, "share": 0.05, "do": "drop_after"},
    ]
    kube.set_faults({"seed": 7, "faults": faults})
    with bench.serving() as endpoint:
        manifest = bench.drive(endpoint, bench.plan(endpoint))
    assert manifest.shards[0]["complete"] is True
    assert sum(one["hits"] for one in kube.faults()) > 5
    kube.set_faults([])
