"""Pods and events as the API shows them, and the verdict on a start, for the tests of what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from accelbench_assets.launch.kube.diagnose import starting_trouble
from accelbench_assets.launch.kube.look import Look
from accelbench_assets.launch.kube.trouble import Trouble

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NAME = "accelbench-0123456789ab-5d4b569dbf-kwtkg"
GPU_FULL = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are "
    "available: 1 No preemption victims found for incoming pod."
)


def stamp(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    state: Mapping[str, Any] | None = None,
    *,
    last: Mapping[str, Any] | None = None,
    restarts: int = 0,
    phase: str = "Pending",
    node: str | None = "gpu-1",
    age_s: float = 5.0,
    ready: str = "False",
    reason: str | None = None,
    message: str | None = None,
    conditions: Sequence[Mapping[str, Any]] = (),
    deleted: bool = False,
    name: str = NAME,
    unscheduled: str = GPU_FULL,
) -> dict[str, Any]:
    """A pod as the API shows it, with container ``server`` in *state*."""
    scheduled: dict[str, Any] = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(age_s)}
    if node is None:
        scheduled |= {"status": "False", "reason": "Unschedulable", "message": unscheduled}
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [scheduled, {"type": "Ready", "status": ready}, *conditions],
    }
    if state is not None:
        container = {
            "name": "server",
            "restartCount": restarts,
            "state": state,
            "started": "running" in state,
        }
        status["containerStatuses"] = [container | ({"lastState": last} if last else {})]
    for key, value in (("reason", reason), ("message", message)):
        if value is not None:
            status[key] = value
    metadata: dict[str, Any] = {"name": name, "creationTimestamp": stamp(age_s)}
    if deleted:
        metadata["deletionTimestamp"] = stamp(-30)
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def event(
    reason: str, message: str, *, count: int = 1, about: str = NAME, seconds_ago: float = 1.0
) -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "count": count,
        "lastTimestamp": stamp(seconds_ago),
        "involvedObject": {"name": about},
    }


def diagnose(one: dict[str, Any] | None, *events: dict[str, Any], **look: Any) -> Trouble | None:
    pods = [] if one is None else [one]
    return starting_trouble(Look(pods=pods, now=NOW, events=events, **look), "server")


def verdict(found: Trouble | None) -> tuple[str, bool] | None:
    return None if found is None else (found.code, found.certain)
