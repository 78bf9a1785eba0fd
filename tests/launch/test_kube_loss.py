"""A lost node, and a server that was taken away or fell while it was in use."""

from __future__ import annotations

from typing import Any

import pytest

from accelbench_assets.launch.kube.look import Look
from accelbench_assets.launch.kube.loss import in_use, running_trouble
from tests.launch.pod_cases import NOW, diagnose, ended, event, pod, stamp

READY_NODE = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
LOST_NODE = {
    "status": {
        "conditions": [
            {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}
        ]
    }
}
UNREACHABLE = {
    "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}
} | READY_NODE
RUNNING = {"running": {"startedAt": stamp(60)}}


@pytest.mark.parametrize("node", [None, LOST_NODE, UNREACHABLE])
def test_a_lost_node_is_seen_while_its_pods_still_say_running(node: dict[str, Any] | None) -> None:
    one = pod(RUNNING, phase="Running", ready="True")
    assert diagnose(one, nodes={"gpu-1": READY_NODE}) is None
    found = diagnose(one, nodes={"gpu-1": node})
    assert (found.code, found.certain, found.retryable) == ("node_lost", True, True)
    look = Look(pods=[one], now=NOW, nodes={"gpu-1": node})
    assert running_trouble(look, "server", in_use([one], "server")).code == "node_lost"


def unready(seconds_ago: float | None) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False", "message": "container runtime is down"}
    if seconds_ago is not None:
        ready["lastTransitionTime"] = stamp(seconds_ago)
    return {"status": {"conditions": [ready]}}


@pytest.mark.parametrize(("seconds_ago", "gone"), [(0, False), (59, False), (60, True), (None, False)])
def test_a_node_that_says_it_is_not_ready_is_lost_only_after_a_while(
    seconds_ago: float | None, gone: bool
) -> None:
    one = pod(RUNNING, phase="Running", ready="True")
    nodes = {"gpu-1": unready(seconds_ago)}
    found = running_trouble(Look(pods=[one], now=NOW, nodes=nodes), "server", in_use([one], "server"))
    assert (found and found.code) == ("node_lost" if gone else None)
    assert (diagnose(one, nodes=nodes) is not None) is gone
    taints = {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}
    assert diagnose(one, nodes={"gpu-1": unready(seconds_ago) | {"spec": taints}}).code == "node_lost"


def taken(reason: str) -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"}


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (pod(RUNNING, phase="Running", ready="True"), None),
        (pod(RUNNING, phase="Running", ready="False"), None),  # too busy to answer its probe is not dead
        (None, "evicted"),
        (pod(RUNNING, phase="Running", deleted=True), "evicted"),
        (pod(RUNNING, phase="Running", conditions=[taken("EvictionByEvictionAPI")]), "evicted"),
        (pod(RUNNING, phase="Running", conditions=[taken("DeletionByTaintManager")]), "node_lost"),
        (pod(ended(137), phase="Failed", reason="Evicted", message="The node was low on memory."), "evicted"),
        (pod(ended(137), phase="Failed", reason="Terminated", message="node shutdown"), "node_lost"),
        (pod(ended(1), phase="Running"), "crashed"),
        (pod(RUNNING, last=ended(139), restarts=1, phase="Running"), "crashed"),
        (pod(RUNNING, last=ended(137, "OOMKilled"), restarts=1, phase="Running"), "oom"),
    ],
)
def test_what_happens_to_a_server_in_use(now: dict[str, Any] | None, code: str | None) -> None:
    before = pod(RUNNING, phase="Running", ready="True")
    look = Look(pods=[] if now is None else [now], now=NOW, nodes={"gpu-1": READY_NODE})
    found = running_trouble(look, "server", in_use([before], "server"))
    assert (found and found.code) == code


def test_where_nodes_cannot_be_read_the_pods_event_tells() -> None:
    one = pod(RUNNING, phase="Running", ready="False")
    told = event("NodeNotReady", "Node is not ready")
    look = Look(pods=[one], now=NOW, events=[told])
    assert running_trouble(look, "server", in_use([one], "server")).code == "node_lost"


def test_an_old_event_says_nothing_of_a_node_that_is_ready_again() -> None:
    one = pod(RUNNING, phase="Running", ready="False")
    look = Look(pods=[one], now=NOW, events=[event("NodeNotReady", "-")], nodes={"gpu-1": READY_NODE})
    assert running_trouble(look, "server", in_use([one], "server")) is None


def test_a_restart_before_the_load_is_not_held_against_a_server() -> None:
    before = pod(RUNNING, last=ended(1), restarts=1, phase="Running", ready="True")
    assert running_trouble(Look(pods=[before], now=NOW), "server", in_use([before], "server")) is None
