"""What ``accelbench doctor --cluster`` asks: the cluster, our rights in it, and the budget.

Belongs here: one function per subject, each line with what to do. Nothing is created and no Secret is read.
Does not belong here: calls (``launch.kube``), the ledger (``budget``), what the launcher creates (``launch``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import AccelBenchError, LaunchError
from accelbench_assets.scrub import scrub

if TYPE_CHECKING:
    from accelbench_assets.cli.doctor import Check
    from accelbench_assets.launch.kube.client import Cluster

SUPPORTED = ((1, 30), (1, 36))
"""Versions the manifests are validated for, first and last."""
RIGHTS = (
    ("configmaps", "", ("create", "get", "list", "patch", "delete")),
    ("leases", "coordination.k8s.io", ("create", "get", "list", "patch", "delete")),
    ("services", "", ("create", "get", "list", "delete")),
    ("deployments", "apps", ("create", "get", "list", "delete")),
    ("replicasets", "apps", ("get", "list", "delete")),
    ("jobs", "batch", ("create", "get", "list", "delete")),
    ("pods", "", ("get", "list", "delete")),
    ("pods/log", "", ("get",)),
    ("pods/proxy", "", ("get", "create")),
    ("events", "", ("list",)),
    ("nodes", "", ("get",)),
)
"""Resource, its API group, and the verbs that launcher and reaper use."""
TIMEOUT_S, RETRY_S = 10.0, 5.0
_APPLY = "apply the Role of infra/ (ClusterRole for nodes), or use credentials that have it"


def cluster_checks() -> Iterator[Check]:
    """Everything a launch on EKS needs."""
    from accelbench_assets.launch.kube.client import Cluster

    try:
        cluster = Cluster.connect(
            STATE.settings.kube, agent="accelbench-doctor", timeout_s=TIMEOUT_S, retry_s=RETRY_S
        )
        version = cluster.version()
    except LaunchError as error:
        yield _check("cluster", "missing", scrub(error.message), error.hint or "")
    else:
        yield _version(version)
        yield _guarded(f"namespace {cluster.namespace}", lambda: f"uid {cluster.namespace_uid()}")
        yield from _rights(cluster)
        yield from _accounts(cluster)
        yield _quota(cluster)
        yield _node_pools(cluster)
    yield _lake()
    yield from _budget()


def _check(name: str, state: str, found: str, todo: str = "") -> Check:
    from accelbench_assets.cli.doctor import Check

    return Check("cluster", name, state, found, todo)


def _guarded(name: str, ask: Callable[[], str]) -> Check:
    try:
        return _check(name, "ok", ask())
    except AccelBenchError as error:
        return _check(name, "missing", scrub(error.message), error.hint or "")


def _version(text: str) -> Check:
    numbers = text.lstrip("v").split(".")
    known = tuple(int(number) for number in numbers[:2]) if all(n.isdigit() for n in numbers[:2]) else (0, 0)
    if SUPPORTED[0] <= known <= SUPPORTED[1]:
        return _check("cluster", "ok", f"Kubernetes {text}")
    tried = " to ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
    return _check("cluster", "warn", f"Kubernetes {text}", f"manifests are validated for {tried}")


def _rights(cluster: Cluster) -> Iterator[Check]:
    asked = [(verb, resource, group) for resource, group, verbs in RIGHTS for verb in verbs]
    try:
        with ThreadPoolExecutor(8) as pool:
            allowed = dict(zip(asked, pool.map(lambda one: cluster.can(*one), asked), strict=True))
    except LaunchError as error:
        yield _check("rights", "missing", scrub(error.message), error.hint or "")
        return
    for resource, group, verbs in RIGHTS:
        denied = [verb for verb in verbs if not allowed[verb, resource, group]]
        if denied:
            yield _check(f"right: {resource}", "missing", f"not allowed: {', '.join(denied)}", _APPLY)
        else:
            yield _check(f"right: {resource}", "ok", ", ".join(verbs))


def _ask(cluster: Cluster, path: str, doing: str) -> tuple[int, dict[str, Any]]:
    """Status and document of a GET that may be denied or lead nowhere. Raises ``LaunchError`` for no answer."""
    answer = cluster.calls.send("GET", path, doing, expect=(401, 403, 404))
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = {}
    return answer.status, document if isinstance(document, dict) else {}


def _accounts(cluster: Cluster) -> Iterator[Check]:
    kube = STATE.settings.kube
    for account in (kube.server_service_account, kube.loadgen_service_account):
        name = f"service account {account}"
        path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{account}"
        try:
            status, document = _ask(cluster, path, f"reading {name}")
        except LaunchError as error:
            yield _check(name, "warn", scrub(error.message))
            continue
        if status == 200:
            yield _check(name, "ok", "is there")
        elif status == 404 and (document.get("details") or {}).get("name") == account:
            yield _check(name, "missing", "does not exist", "apply infra/: without it no pod is ever made")
        else:
            yield _check(
                name, "warn", "may not be looked at", "`kubectl get serviceaccounts` as an administrator"
            )


def _quota(cluster: Cluster) -> Check:
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    try:
        status, document = _ask(cluster, path, "reading quotas")
    except LaunchError as error:
        return _check("quota", "warn", scrub(error.message))
    if status != 200:
        return _check("quota", "warn", "may not be looked at", "a launch that exceeds one ends as `quota`")
    parts = []
    for one in document.get("items") or ():
        stand = one.get("status") or {}
        used, hard = stand.get("used") or {}, stand.get("hard") or {}
        parts += [f"{name} {used.get(name, '0')} of {limit}" for name, limit in sorted(hard.items())]
    return _check("quota", "ok", "; ".join(parts) or "none in the namespace")


def _node_pools(cluster: Cluster) -> Check:
    try:
        status, document = _ask(cluster, "/apis/karpenter.sh/v1/nodepools", "reading NodePools")
    except LaunchError as error:
        return _check("NodePools", "warn", scrub(error.message))
    names = [str(item["metadata"]["name"]) for item in document.get("items") or ()]
    if status == 200 and names:
        return _check("NodePools", "ok", ", ".join(names))
    if status == 200:
        return _check("NodePools", "missing", "there are none", "apply infra/: nobody would make a node")
    why = "may not be looked at" if status in (401, 403) else "Karpenter is not to be found"
    return _check("NodePools", "warn", why, "nodes must come from somewhere: `kubectl get nodepools`")


def _lake() -> Check:
    url = STATE.settings.lake_url
    if url.startswith("s3://"):
        return _check("lake on S3", "ok", url)
    return _check(
        "lake on S3", "missing", f"{url} is a folder here", "set lake to s3://bucket/prefix: pods write to it"
    )


def _budget() -> Iterator[Check]:
    settings = STATE.settings
    budget = settings.budget
    caps = f"{budget.max_usd_per_run} USD a run, {budget.max_usd_per_month} a month, {budget.max_runs} runs at once"
    if settings.database_url is None:
        todo = "set database_url: an embedded database's caps hold for this machine alone"
        yield _check("budget", "warn", f"embedded database; caps: {caps}", todo)
        return
    from accelbench_assets.budget.ledger import PostgresBudget

    def ask() -> str:
        url = settings.database_url
        assert url is not None
        month = PostgresBudget(url.get_secret_value(), budget).month_to_date()
        spent = f"{month.spent_usd:.2f} USD spent this month, {month.reserved_usd:.2f} reserved"
        return f"{spent} by {len(month.open_runs)} runs; caps: {caps}"

    yield _guarded("budget", ask)
