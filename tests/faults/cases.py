"""The matrix: what is done to a run, and how its attempt may end.

A case is data. ``api`` is a plan for the API server's faults (``PID`` is replaced by the orchestrator's process id),
``pods`` one for the pods', ``during`` a deed that is done while the run is in a phase. ``ends`` are the statuses that
are right; ``None`` stands for an attempt that never reached the lake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GONE = ("infra_lost", None)
Fault = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    ends: tuple[str | None, ...]
    code: tuple[str, ...] = ()
    api: tuple[Fault, ...] = ()
    pods: tuple[Fault, ...] = ()
    die_at: str | None = None
    stop_at: str | None = None
    during: tuple[str, str] | None = None  # (phase, deed)
    shards: int = 1
    sample: bool = False  # also part of make test
    more: dict[str, Any] = field(default_factory=dict)


def _kill(verb: str, resource: str, when: str, nth: int = 1, **more: Any) -> Case:
    fault = {
        "match": {"verb": verb, "resource": resource, "nth": nth},
        "do": f"kill_{when}",
        "pid": "PID",
    }
    number = "" if nth == 1 else f" no. {nth}"
    return Case(f"kill -9 {when} {verb} {resource}{number}", (*GONE, "succeeded"), api=(fault,), **more)


def _both(verb: str, resource: str, nth: int = 1) -> list[Case]:
    return [_kill(verb, resource, when, nth) for when in ("before", "after")]


# In the order of an attempt: every call that changes the cluster, and those that look at it.
KILLS = [
    *_both("get", "namespaces"),
    *_both("create", "configmaps"),
    *_both("create", "leases"),
    *_both("create", "services"),
    _kill("create", "deployments", "before"),
    _kill("create", "deployments", "after", sample=True),
    *_both("list", "pods"),
    *_both("list", "events"),
    *_both("patch", "leases", 2),
    *_both("create", "configmaps", 2),
    *_both("create", "jobs"),
    *_both("get", "jobs"),
    *_both("log", "pods"),
    *_both("delete", "jobs"),
    *_both("delete", "deployments"),
    *_both("delete", "services"),
    *_both("delete", "configmaps"),
    Case("kill -9 while samples are checked", GONE, die_at="verify"),
    Case("kill -9 at the commit", GONE, die_at="commit"),
    Case("kill -9 while rows are derived", ("succeeded",), die_at="derive"),
    Case("kill -9 at the publication", ("succeeded",), die_at="publish"),
]

DONE = ("succeeded",)
FAILED = ("failed",)
LOST = ("infra_lost",)
NODE = ("node_lost", "evicted")


def _api(
    name: str,
    do: str,
    ends: tuple[str, ...] = DONE,
    *,
    match: Fault | None = None,
    code: str = "",
    **more: Any,
) -> Case:
    """A fault of the API server; *more* beside ``sample`` is the fault's."""
    sample = bool(more.pop("sample", False))
    codes = (code,) if code else ()
    return Case(f"API: {name}", ends, codes, api=({"match": match or {}, "do": do, **more},), sample=sample)


def _pod(name: str, what: str, do: str, ends: tuple[str, ...], *codes: str, **more: Any) -> Case:
    """A fault of the pods whose image or name has *what* in it."""
    sample = bool(more.pop("sample", False))
    return Case(name, ends, codes, pods=({"pod": what, "do": do, **more},), sample=sample)


def _deed(
    name: str, phase: str, deed: str, ends: tuple[str | None, ...], *codes: str, sample: bool = False
) -> Case:
    """Something done to the outside world while the run is in *phase*."""
    return Case(name, ends, codes, during=(phase, deed), sample=sample)


JOBS = {"verb": "create", "resource": "jobs"}
API = [
    _api("10 % of calls answer 500", "status", share=0.1, status=500),
    _api("10 % of calls answer 429", "status", share=0.1, status=429, sample=True),
    _api("10 % of calls answer 503", "status", share=0.1, status=503),
    _api("half of the creations are done, and their answers lost", "drop_after", share=0.5, match={"verb": "create"}),
    _api("10 % of connections dropped", "drop", share=0.1),
    _api("a third of the changes answer 409", "conflict", share=0.3, match={"verb": "patch"}),
    _api("log streams cut", "cut", share=0.5, match={"verb": "log"}),
    _api("frozen for 30 s once", "freeze", seconds=30, match={"verb": "list", "resource": "pods", "nth": 3}),
    _api("no permission to create jobs", "deny", FAILED, code="api_denied", match=JOBS),
    _api("quota of jobs exhausted", "quota", FAILED, code="quota", match=JOBS),
]  # fmt: skip

PODS = [
    _pod("image not found", "vllm", "image_pull_not_found", FAILED, "image_pull"),
    _pod("image needs a login", "vllm", "image_pull_denied", FAILED, "image_pull"),
    _pod("registry unreachable for a while", "vllm", "image_pull_network", DONE, times=2),
    _pod("server out of memory", "vllm", "oom", FAILED, "oom"),
    _pod("server in a crash loop", "vllm", "crash", FAILED, "crash_loop"),
    _pod("model does not fit", "vllm", "does_not_fit", ("does_not_fit",), "does_not_fit"),
    _pod("gated model", "vllm", "gated", FAILED, "gated_model"),
    _pod(
        "server hangs before it is ready",
        "vllm",
        "hang_not_ready",
        ("failed", "timed_out"),
        "not_ready",
        "deadline",
    ),
    _pod("no node to be had", "vllm", "unschedulable", FAILED, "unschedulable"),
    _pod("generator crashes", "loadgen", "crash", FAILED, "loadgen_failed", after_s=2.0),
    _pod("generator out of memory", "loadgen", "oom", FAILED, "loadgen_failed", "oom", after_s=2.0),
    _pod("generator's image not found", "loadgen", "image_pull_not_found", FAILED, "image_pull"),
    _deed("server crashes under load", "load", "kill_server", FAILED, "crashed", "oom", "crash_loop"),
    _deed("node lost under load", "load", "lose_node", LOST, *NODE, sample=True),
    _deed("node taken away under load (spot, consolidation)", "load", "delete_node", LOST, *NODE),
    _deed("server evicted under load", "load", "evict_server", LOST, *NODE),
]

OUTSIDE = [
    _deed("S3 down at the commit", "commit", "s3_down", (*GONE, "failed", "succeeded")),
    _deed("PostgreSQL down at the publication", "derive", "postgres_down", DONE),
    _deed(
        "PostgreSQL down at the start: nothing is launched", "before", "postgres_down", FAILED, "no_ledger"
    ),
    _deed("orchestrator frozen past its Lease", "load", "freeze_orchestrator", LOST),
    Case("cancelled before the server is there", ("cancelled",), stop_at="serve"),
    Case("cancelled under load", ("cancelled",), stop_at="load"),
    _deed(
        "cancelled by its Lease under load",
        "load",
        "cancel_by_lease",
        ("cancelled",),
        "cancelled",
        sample=True,
    ),
    Case("cancelled while samples are checked", ("cancelled",), stop_at="verify"),
    Case("cancelled at the commit", ("cancelled", "succeeded"), stop_at="commit"),
]

CASES = [*KILLS, *API, *PODS, *OUTSIDE]
