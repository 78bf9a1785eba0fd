"""When a server's node, image and weights were there, from what the cluster and the engine say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accelbench_assets.launch.kube.phases import (
    LOADING,
    PULLING,
    READY,
    WAITING_FOR_NODE,
    phase_facts,
    phase_of,
    phases_of,
    pull_seconds,
)

SUBMITTED = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)


def at(seconds: float, *, micro: bool = False) -> str:
    moment = SUBMITTED + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def ready_pod(
    name: str = "p", *, scheduled: float = 70, started: float = 130, healthy: float = 190
) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": "True", "lastTransitionTime": at(healthy)},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(scheduled)},
    ]
    running = {"name": "server", "state": {"running": {"startedAt": at(started)}}, "imageID": "sha256:1"}
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": "gpu-1"},
        "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [running]},
    }


def event(reason: str, message: str, *, about: str = "p", **stamps: str) -> dict[str, Any]:
    involved = {"name": about}
    if reason == "Pulled":
        involved["fieldPath"] = "spec.containers{server}"
    return {"reason": reason, "message": message, "involvedObject": involved, **stamps}


PULLED = (
    'Successfully pulled image "reg.example/vllm:1" in 46.2s (50.1s including waiting). Image size: 9 bytes.'
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (PULLED, 46.2),
        (
            'Successfully pulled image "x" in 46ms (46ms including waiting). Image size: 18566139 bytes.',
            0.046,
        ),
        ('Successfully pulled image "x" in 1m2.5s (1m2.5s including waiting)', 62.5),
        ('Successfully pulled image "a in 3s b" in 1h0m1s', 3601.0),
        ('Failed to pull image "x"', None),
    ],
)
def test_how_long_a_pull_took(text: str, seconds: float | None) -> None:
    assert pull_seconds(text) == seconds


def test_every_phase_of_a_start() -> None:
    node = {"metadata": {"creationTimestamp": at(40)}}
    events = [
        event("Scheduled", "Successfully assigned", eventTime=at(70.5, micro=True)),
        event("Pulled", PULLED, lastTimestamp=at(125)),
        event("Pulled", PULLED.replace("46.2", "999"), about="another", lastTimestamp=at(999)),
    ]
    found = phases_of(ready_pod(), events, node, "server", SUBMITTED)
    assert found.provision_s == pytest.approx(70.5)  # the scheduler's stamp, not the whole second
    assert found.new_node
    assert found.image_pull_s == 46.2
    assert found.image_pulled_at == (SUBMITTED + timedelta(seconds=125)).replace(microsecond=0)
    assert found.started_at == (SUBMITTED + timedelta(seconds=130)).replace(microsecond=0)


def test_a_node_that_was_there_and_an_image_too() -> None:
    node = {"metadata": {"creationTimestamp": at(-4000)}}
    there = event("Pulled", 'Container image "x" already present on machine', lastTimestamp=at(1))
    found = phases_of(ready_pod(scheduled=0), [there], node, "server", SUBMITTED)
    assert not found.new_node
    assert found.provision_s == 0.0  # a whole second before the request for it
    assert found.image_pull_s == 0.0


def test_what_no_event_tells_is_not_known() -> None:
    found = phases_of(ready_pod(), [], None, "server", SUBMITTED)
    assert (found.image_pull_s, found.image_pulled_at, found.new_node) == (None, None, False)
    assert found.provision_s == pytest.approx(69.75)  # from the pod's condition


def test_the_record_gets_the_slowest_replica_and_what_the_engine_says() -> None:
    fast = phases_of(ready_pod(), [], None, "server", SUBMITTED)
    slow = phases_of(ready_pod(scheduled=100, started=160, healthy=300), [], None, "server", SUBMITTED)
    facts = phase_facts([fast, slow], [{"weights_s": 40.5, "compile_s": 12.25}, {"weights_s": 41.5}])
    assert facts["provision_s"] == pytest.approx(99.75)
    assert facts["weights_s"] == 41.5
    assert facts["compile_s"] == 12.25
    assert facts["image_pull_s"] is None


def test_only_the_engine_tells_of_its_weights() -> None:
    facts = phase_facts([phases_of(ready_pod(), [], None, "server", SUBMITTED)], [{}])
    assert (facts["weights_s"], facts["weights_loaded_at"], facts["compile_s"]) == (None, None, None)
    assert facts["provision_s"] == pytest.approx(69.75)


def test_the_name_of_the_phase() -> None:
    one = ready_pod()
    assert phase_of(one, "server") == READY
    one["status"]["conditions"][0]["status"] = "False"
    assert phase_of(one, "server") == LOADING
    one["status"]["containerStatuses"] = [
        {"name": "server", "state": {"waiting": {"reason": "ContainerCreating"}}}
    ]
    assert phase_of(one, "server") == PULLING
    one["spec"] = {}
    assert phase_of(one, "server") == WAITING_FOR_NODE
    assert phase_of(None, "server") == WAITING_FOR_NODE
