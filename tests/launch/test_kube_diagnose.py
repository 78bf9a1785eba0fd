"""What the state of a pod that does not start means: each failure a real cluster shows, with its own words."""

from __future__ import annotations

from typing import Any

import pytest

from accelbench_assets.launch.kube.diagnose import job_verdict, starting_trouble
from accelbench_assets.launch.kube.look import Look
from tests.launch.pod_cases import GPU_FULL, NOW, diagnose, ended, event, pod, stamp, verdict, waiting

NOT_FOUND = (
    'rpc error: code = NotFound desc = failed to pull and unpack image "reg.example/bench/nosuch:1": failed to '
    "resolve image: reg.example/bench/nosuch:1: not found"
)
NO_LOGIN = (
    'failed to pull and unpack image "reg.example/private:1": failed to resolve image: pull access denied, repository '
    "does not exist or may require authorization: authorization failed: no basic auth credentials"
)
NO_ROUTE = (
    'failed to pull and unpack image "reg.example/not-found:1": failed to do request: Head '
    '"https://reg.example/v2/": dial tcp 10.0.0.1:443: connect: connection refused'
)


def test_nothing_is_wrong_with_what_is_under_way() -> None:
    for one in (
        pod(waiting("ContainerCreating")),
        pod({"running": {"startedAt": stamp(1)}}, phase="Running"),
        pod({"running": {"startedAt": stamp(1)}}, phase="Running", ready="True"),
        pod(None),
    ):
        assert diagnose(one) is None
    assert diagnose(None) is None


@pytest.mark.parametrize(
    ("message", "events", "expected"),
    [
        (GPU_FULL, [], ("unschedulable", False)),
        (
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            [],
            ("unschedulable", False),
        ),
        (
            GPU_FULL,
            [
                'incompatible with nodepool "gpu", key karpenter.sh/capacity-type, karpenter.sh/capacity-type In [spot]'
            ],
            ("unschedulable", False),
        ),
        (
            GPU_FULL,
            ['all available instance types exceed limits for nodepool: "gpu"'],
            ("unschedulable", False),
        ),
        (
            GPU_FULL,
            ["creating nodeclaim, all requested instance types were unavailable during launch"],
            ("no_capacity", False),
        ),
        ("0/1 nodes are available: there is no p5 capacity in us-east-1a", [], ("no_capacity", False)),
        (
            GPU_FULL,
            [
                "creating instance, InsufficientInstanceCapacity: We currently do not have sufficient p5 capacity"
            ],
            ("no_capacity", False),
        ),
        (
            GPU_FULL,
            [
                "launching: VcpuLimitExceeded: You have requested more vCPU capacity than your current vCPU limit of 0"
            ],
            ("quota", True),
        ),
        (GPU_FULL, ["MaxSpotInstanceCountExceeded: Max spot instance count exceeded"], ("quota", True)),
    ],
)
def test_a_pod_no_node_takes(message: str, events: list[str], expected: tuple[str, bool]) -> None:
    one = pod(None, node=None, unscheduled=message)
    found = diagnose(one, *(event("FailedScheduling", text) for text in events))
    assert verdict(found) == expected
    if found.code != "unschedulable":
        assert (events or [message])[-1].split(":")[-1].strip() in found.text
    else:
        assert message in found.text
        assert "taints" in found.error().hint


def test_a_pod_karpenter_ordered_a_node_for_lacks_capacity() -> None:
    ordered = event("Nominated", "Pod should schedule on: nodeclaim/gpu-x7k2q")
    assert verdict(diagnose(pod(None, node=None), ordered)) == ("no_capacity", False)
    elsewhere = event("Nominated", "Pod should schedule on: nodeclaim/gpu-x7k2q", about="another")
    assert verdict(diagnose(pod(None, node=None), elsewhere)) == ("unschedulable", False)


def test_karpenters_reason_stands_beside_the_schedulers() -> None:
    text = 'Failed to schedule pod, incompatible with nodepool "gpu", no instance type satisfied resources'
    told = event("FailedScheduling", text) | {"type": "Warning", "source": {"component": "karpenter"}}
    found = diagnose(pod(None, node=None), told)
    assert GPU_FULL in found.text
    assert text in found.text


def test_a_missing_claim_is_a_mistake_once_it_had_time_to_appear() -> None:
    text = '0/1 nodes are available: persistentvolumeclaim "nope" not found. not found'
    assert verdict(diagnose(pod(None, node=None, unscheduled=text, age_s=2))) == ("bad_config", False)
    assert verdict(diagnose(pod(None, node=None, unscheduled=text, age_s=60))) == ("bad_config", True)


QUOTA = (
    'pods "x-b9vzb" is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=2, used: '
    "requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=1"
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (QUOTA, ("quota", True)),
        ('pods "x" is forbidden: failed quota: q: must specify limits.memory for: c', ("bad_config", True)),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            ("bad_config", True),
        ),
        (
            'pods "x" is forbidden: error looking up service account ts/nope: serviceaccount "nope" not found',
            ("bad_config", True),
        ),
        ("Internal error occurred: failed calling webhook", ("bad_config", False)),
    ],
)
def test_pods_the_cluster_refuses(message: str, expected: tuple[str, bool]) -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    deployment = {"status": {"conditions": [{"type": "Progressing", "status": "True"}, condition]}}
    assert verdict(diagnose(None, owner=deployment)) == expected
    # Those of a Job show only as events.
    refused = event("FailedCreate", f"Error creating: {message}", about="accelbench-0123456789ab-load")
    assert verdict(diagnose(None, refused, owner={"status": {"startTime": stamp(3)}})) == expected


def test_a_refusal_that_was_overcome_is_forgotten() -> None:
    refused = event("FailedCreate", f"Error creating: {QUOTA}", about="accelbench-x", seconds_ago=30)
    made = event("SuccessfulCreate", "Created pod: a", about="accelbench-x", seconds_ago=10)
    assert diagnose(None, refused, made) is None
    assert verdict(diagnose(None, refused | {"lastTimestamp": stamp(1)}, made)) == ("quota", True)
    assert diagnose(pod(waiting("ContainerCreating")), refused) is None


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
@pytest.mark.parametrize(
    ("cause", "final"),
    [(NOT_FOUND, True), (NO_LOGIN, True), (NO_ROUTE, False), ("context deadline exceeded", False)],
)
def test_an_image_that_cannot_be_pulled(reason: str, cause: str, final: bool) -> None:
    said = (
        cause
        if reason == "ErrImagePull"
        else f'Back-off pulling image "reg.example/x:1": ErrImagePull: {cause}'
    )
    one = pod(waiting(reason, said))
    first = event("Failed", f'Failed to pull image "reg.example/x:1": {cause}', count=1)
    again = event("Failed", f'Failed to pull image "reg.example/x:1": {cause}', count=2)
    assert verdict(diagnose(one, first)) == ("image_pull", False)
    found = diagnose(one, again)
    assert (found.code, found.certain, found.retryable) == ("image_pull", final, not final)
    assert cause[-20:] in found.text
    late = pod(waiting(reason, said), age_s=120)
    assert diagnose(late).certain is final


def test_an_older_back_off_names_no_cause_and_the_event_does() -> None:
    one = pod(waiting("ImagePullBackOff", 'Back-off pulling image "reg.example/not-found:1"'))
    refused = event("Failed", f'Failed to pull image "reg.example/not-found:1": {NO_ROUTE}', count=5)
    found = diagnose(one, refused)
    assert (found.certain, found.retryable) == (False, True)
    assert "connection refused" in found.text


@pytest.mark.parametrize(
    ("state", "age_s", "expected"),
    [
        (waiting("InvalidImageName", "couldn't parse image name"), 1, ("bad_config", True)),
        (waiting("ErrImageNeverPull", "not present with pull policy of Never"), 1, ("image_pull", True)),
        (waiting("CreateContainerConfigError", 'secret "hf" not found'), 1, ("bad_config", False)),
        (waiting("CreateContainerConfigError", 'secret "hf" not found'), 60, ("bad_config", True)),
        (ended(128, "StartError", 'exec: "/nope": no such file or directory'), 1, ("bad_config", True)),
        (ended(137, "OOMKilled"), 1, ("oom", True)),
        (ended(0, "OOMKilled"), 1, ("oom", True)),
        (ended(1), 1, ("crash_loop", False)),
    ],
)
def test_a_container_that_does_not_start(
    state: dict[str, Any], age_s: float, expected: tuple[str, bool]
) -> None:
    assert verdict(diagnose(pod(state, age_s=age_s))) == expected


def test_a_missing_volume_shows_only_as_an_event() -> None:
    lacking = event("FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "absent" not found')
    assert verdict(diagnose(pod(waiting("ContainerCreating")), lacking)) == ("bad_config", False)
    assert verdict(diagnose(pod(waiting("ContainerCreating"), age_s=60), lacking)) == ("bad_config", True)
    assert diagnose(pod({"running": {}}, age_s=60, phase="Running"), lacking) is None


def test_a_crash_loop_is_one_after_the_second_restart() -> None:
    crash = ended(1, message="")
    states = [
        (pod(crash), False),
        (pod({"running": {}}, last=crash, restarts=1), False),  # the first restart is immediate
        (pod(crash, last=crash, restarts=2), True),
        (pod(waiting("CrashLoopBackOff"), last=crash, restarts=2), True),
    ]
    for one, certain in states:
        assert verdict(diagnose(one)) == ("crash_loop", certain)
    assert "exit code 1" in diagnose(states[0][0]).text
    assert "killed by signal 9" in diagnose(pod(ended(137))).text


def test_a_server_ended_by_its_probe_was_not_ready_and_did_not_crash() -> None:
    one = pod(ended(137), restarts=1)
    killing = event("Killing", "Container server failed startup probe, will be restarted")
    assert verdict(diagnose(one, killing)) == ("not_ready", True)
    assert verdict(diagnose(one, event("Killing", "Stopping container server"))) == ("crash_loop", False)


def test_an_evicted_start_is_tried_again_and_in_the_end_given_up() -> None:
    evicted = [
        pod(ended(137), phase="Failed", reason="Evicted", message="low on disk", name=f"p{i}")
        for i in range(3)
    ]
    fresh = pod(waiting("ContainerCreating"), name="fresh")
    assert starting_trouble(Look(pods=[*evicted[:1], fresh], now=NOW), "server") is None
    one = starting_trouble(Look(pods=evicted[:1], now=NOW), "server")
    assert (one.code, one.certain, one.retryable) == ("evicted", False, True)
    three = starting_trouble(Look(pods=evicted, now=NOW), "server")
    assert (three.code, three.certain, three.retryable) == ("evicted", True, False)


def test_a_final_cause_is_named_before_a_passing_one() -> None:
    pods = [pod(None, node=None, name="a"), pod(ended(137, "OOMKilled"), name="b")]
    assert verdict(starting_trouble(Look(pods=pods, now=NOW, wanted=2), "server")) == ("oom", True)


def test_the_verdict_of_a_job_is_not_its_first_condition() -> None:
    def job(*kinds: tuple[str, str]) -> dict[str, Any]:
        conditions = [{"type": k, "status": s, "reason": "R", "message": "m"} for k, s in kinds]
        return {"status": {"conditions": conditions}}

    assert job_verdict(job(("Suspended", "False"), ("SuccessCriteriaMet", "True"))) is None
    assert job_verdict(job(("FailureTarget", "True"))) is None
    assert job_verdict(job(("SuccessCriteriaMet", "True"), ("Complete", "True"))) == ("Complete", "R", "m")
    assert job_verdict(job(("FailureTarget", "True"), ("Failed", "True"))) == ("Failed", "R", "m")
    assert job_verdict(None) is None
