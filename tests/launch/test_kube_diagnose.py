"""What a pod's state means: each failure a real cluster shows, with its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accelbench_assets.launch.kube.diagnose import job_verdict, starting_trouble
from accelbench_assets.launch.kube.logtext import cause_in
from accelbench_assets.launch.kube.look import Look
from accelbench_assets.launch.kube.loss import in_use, running_trouble
from accelbench_assets.launch.kube.trouble import Trouble

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NAME = "accelbench-0123456789ab-5d4b569dbf-kwtkg"
GPU_FULL = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are "
    "available: 1 No preemption victims found for incoming pod."
)
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


LOGS = [
    (
        "does_not_fit",
        "(EngineCore pid=15) ERROR 10-25 13:08:43 [core.py:708] ValueError: No available memory for the cache blocks. "
        "Try increasing `gpu_memory_utilization` when initializing the engine.",
    ),
    (
        "does_not_fit",
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored "
        "in KV cache (93760). Try increasing `gpu_memory_utilization`",
    ),
    (
        "does_not_fit",
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (4.21 GiB).",
    ),
    ("does_not_fit", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB."),
    ("does_not_fit", 'RuntimeError: nrt_tensor_allocate status=4 message="Allocation Failure"'),
    ("does_not_fit", "2024-Jul-30 ERROR NRT:nrt_infodump   Failure: NRT_RESOURCE in nrt_load()"),
    ("gated_model", "OSError: You are trying to access a gated repo.\nMake sure to have access to it"),
    ("gated_model", "Access to model meta-llama/Llama-3.1-8B is restricted. You must have access to it"),
    (
        "gated_model",
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: https://x",
    ),
    ("gated_model", "HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/x/y/config.json"),
    ("gated_model", "403 Client Error. (Request ID: 1)\n\nCannot access content at: https://hf.co/x/y."),
    (
        "model_not_found",
        "401 Client Error.\n\nRepository Not Found for url: https://hub.example/api/models/x.",
    ),
    (
        "model_not_found",
        "OSError: x/y is not a local folder and is not a valid model identifier listed on 'https://x'",
    ),
    ("bad_config", "api_server.py: error: unrecognized arguments: --no-such-flag"),
    ("bad_config", "pydantic_core.ValidationError: 1 validation error for ModelConfig"),
]


@pytest.mark.parametrize(("code", "log"), LOGS)
def test_the_log_names_the_cause_before_any_restart(code: str, log: str) -> None:
    noise = (
        "INFO 11-01 starting\n{}\nRuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    found = diagnose(pod(ended(1)), logs={NAME: noise.format(log)})
    assert verdict(found) == (code, True)
    assert not found.text.startswith("(EngineCore")


@pytest.mark.parametrize(
    "log",
    [
        "HTTPError: 403 Client Error: Forbidden for url: https://weights.s3.us-east-1.amazonaws.com/a",
        "HTTPError: 401 Client Error: Unauthorized for url: https://proxy.example/a\nsee https://huggingface.co/docs",
        "HTTPError: 403 Client Error: Forbidden",
    ],
)
def test_a_refusal_of_somebody_else_than_the_hub_is_no_gated_model(log: str) -> None:
    assert verdict(diagnose(pod(ended(1)), logs={NAME: log})) == ("crash_loop", False)
    assert verdict(diagnose(pod(ended(1), restarts=2), logs={NAME: log})) == ("crash_loop", True)


def test_memory_somebody_else_holds_says_nothing_of_the_models_size() -> None:
    log = (
        "ValueError: Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory "
        "utilization (0.96, 22.49 GiB)."
    )
    for restarts, certain in ((0, False), (2, True)):
        found = diagnose(pod(ended(1), restarts=restarts), logs={NAME: log})
        assert (found.code, found.certain, found.retryable) == ("not_ready", certain, True)
        assert "Another process held" in found.text
        assert "3.25/23.43 GiB" in found.text


def test_ordinary_lines_are_no_cause() -> None:
    for line in (
        "INFO 11-01 Available KV cache memory: 18.78 GiB",
        "WARNING CUDA memory is getting low",
        "INFO GET /v1/models 404 Not Found",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ):
        assert cause_in(line) is None


def test_the_error_carries_the_last_lines_and_no_secret() -> None:
    trouble = diagnose(pod(ended(1), restarts=2))
    error = trouble.error("one\ntwo\nthree\nHF_TOKEN=hf_abcdefghijklmnop\nlast\n")
    assert error.code == "crash_loop"
    assert "three | " in error.hint
    assert "last" in error.hint
    assert "one" not in error.hint
    assert "hf_abcdefghijklmnop" not in str(error)


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
