"""Which runs are dead, and that nothing of them stays: decided on paper, carried out on a small API."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.reap import (
    REAPER_LEASE,
    RunState,
    decide,
    reap_cluster,
    reaper_seen,
    remove_run,
    run_states,
)
from accelbench_assets.launch.kube.sweep import KINDS
from tests.launch.tiny_api import Fault, TinyApi, cluster_of, status, tiny_api

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
OTHER = "0190f3c4-aaaa-7bbb-8ccc-ba9876543210"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATHS = {
    "ConfigMap": ("configmaps", "/api/v1/namespaces/ns"),
    "Pod": ("pods", "/api/v1/namespaces/ns"),
    "Service": ("services", "/api/v1/namespaces/ns"),
    "Deployment": ("deployments", "/apis/apps/v1/namespaces/ns"),
    "ReplicaSet": ("replicasets", "/apis/apps/v1/namespaces/ns"),
    "Job": ("jobs", "/apis/batch/v1/namespaces/ns"),
    "Lease": ("leases", "/apis/coordination.k8s.io/v1/namespaces/ns"),
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def state(**changes: Any) -> RunState:
    base = RunState(
        run_id=RUN,
        run12=naming.run12(RUN),
        objects=("ConfigMap/a", "Deployment/a"),
        has_anchor=True,
        lease_renewed_at=ago(10),
        stale_s=180.0,
        expires_at=NOW + timedelta(hours=1),
        created_at=ago(3600),
    )
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"lease_renewed_at": ago(179.9)}, None),
        ({"lease_renewed_at": ago(180)}, "stale_lease"),
        ({"lease_renewed_at": ago(30), "stale_s": 20.0}, "stale_lease"),
        ({"lease_renewed_at": ago(-30)}, None),
        ({"expires_at": NOW}, "past_deadline"),
        *(
            ({"expires_at": NOW, "objects": ("ConfigMap/a", f"{kind}/a")}, "past_deadline")
            for kind in ("Job", "Pod")
        ),
        (
            {"expires_at": ago(9000), "objects": ("ConfigMap/a", "Service/a", "Lease/a")},
            None,
        ),  # it may be committing
        ({"expires_at": ago(-1)}, None),
        ({"expires_at": None}, None),
        ({"expires_at": ago(1), "lease_renewed_at": ago(500)}, "stale_lease"),
        ({"expires_at": ago(1), "lease_renewed_at": ago(-9e6)}, "past_deadline"),
        ({"lease_renewed_at": None, "created_at": ago(179)}, None),
        ({"lease_renewed_at": None}, "no_lease"),
        ({"lease_renewed_at": None, "has_anchor": False}, "orphan"),
        ({"lease_renewed_at": None, "has_anchor": False, "created_at": ago(5)}, None),
        ({"lease_renewed_at": None, "created_at": ago(5), "expires_at": ago(1)}, "past_deadline"),
    ],
)
def test_who_has_to_go(changes: dict[str, Any], why: str | None) -> None:
    verdicts = decide([state(**changes)], NOW)
    assert [one.why for one in verdicts] == ([why] if why else [])


moments = st.floats(-10_000, 10_000).map(ago)
states = st.builds(
    RunState,
    run_id=st.just(RUN),
    run12=st.just("0123456789ab"),
    objects=st.sampled_from([("ConfigMap/a",), ("ConfigMap/a", "Pod/a"), ("Job/a",)]),
    has_anchor=st.booleans(),
    lease_renewed_at=st.none() | moments,
    stale_s=st.floats(1, 1000),
    expires_at=st.none() | moments,
    created_at=moments,
)


@given(states, st.floats(0, 100_000))
def test_a_living_run_stays_and_a_dead_one_never_comes_back(one: RunState, later_s: float) -> None:
    gone = bool(decide([one], NOW))
    expired = one.expires_at is not None and one.expires_at <= NOW
    last_sign = one.created_at if one.lease_renewed_at is None else one.lease_renewed_at
    silent = (NOW - last_sign).total_seconds() >= one.stale_s
    works = len(one.objects) > 1 or one.objects[0] == "Job/a" or one.lease_renewed_at is None
    assert gone == ((expired and works) or silent)
    if gone:
        assert decide([one], NOW + timedelta(seconds=later_s))


@given(states)
def test_every_run_goes_some_day(one: RunState) -> None:
    assert decide([one], NOW + timedelta(seconds=100_000))


def test_a_state_is_read_from_whatever_objects_there_are() -> None:
    notes = naming.annotations(RUN, NOW, 42.0)
    lease = {
        "kind": "Lease",
        "metadata": {"name": "l", "annotations": notes, "creationTimestamp": "2026-03-01T11:00:00Z"},
        "spec": {"renewTime": "2026-03-01T11:30:00.5Z"},
    }
    pod = {"kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2026-03-01T10:00:00Z"}}
    anchor_labels = naming.labels(RUN, "cell", "anchor")
    (read,) = run_states({"0123456789ab": [lease, pod]})
    assert (read.run_id, read.stale_s, read.expires_at, read.has_anchor) == (RUN, 42.0, NOW, False)
    assert read.lease_renewed_at == datetime(2026, 3, 1, 11, 30, 0, 500_000, UTC)
    assert read.created_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    (read,) = run_states({"x": [{"kind": "ConfigMap", "metadata": {"name": "a", "labels": anchor_labels}}]})
    assert (read.run_id, read.has_anchor, read.stale_s) == (None, True, 180.0)
    assert decide([read], NOW)
    del lease["spec"]["renewTime"]
    (read,) = run_states({"0123456789ab": [lease]})
    assert read.lease_renewed_at == datetime(2026, 3, 1, 11, tzinfo=UTC)
    lease["metadata"]["annotations"] = {naming.STALE_S: "for ever", naming.EXPIRES_AT: "never"}
    (read,) = run_states({"0123456789ab": [lease]})
    assert (read.stale_s, read.expires_at) == (180.0, None)


# -- carried out ---------------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[TinyApi]:
    with tiny_api() as running:
        yield running


def launch(api: TinyApi, run_id: str, *, lease_age_s: float | None = 0.0, age_s: float = 1000.0) -> None:
    """Objects of every kind, as a run has them; *age_s* and *lease_age_s* in seconds before now."""
    now = datetime.now(UTC)
    notes = naming.annotations(run_id, now + timedelta(hours=1), 180.0)
    born = (now - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for kind in KINDS:
        if kind == "Lease" and lease_age_s is None:
            continue
        resource, prefix = PATHS[kind]
        component = {"ConfigMap": "anchor", "Lease": "lease", "Job": "load"}.get(kind, "server")
        metadata = {
            "labels": naming.labels(run_id, "cell", component),
            "annotations": notes,
            "creationTimestamp": born,
        }
        more: dict[str, Any] = {}
        if kind == "Lease":
            more["spec"] = {
                "renewTime": naming.rfc3339(now - timedelta(seconds=lease_age_s or 0)),
                "holderIdentity": "host_1",
            }
        api.put(resource, naming.base_name(run_id), prefix=prefix, metadata=metadata, **more)


def left(api: TinyApi, run_id: str) -> int:
    return sum(naming.base_name(run_id) in path for path in api.objects)


class Book:
    """The lake's part in it: attempts of this cluster, and which were ended how."""

    def __init__(self, *run_ids: str, age_s: float = 1000.0, cluster: str = "uid-of-ns") -> None:
        asked = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        self.open = {r: {"run_id": r, "cluster": cluster, "requested_at": asked} for r in run_ids}
        self.ended: dict[str, tuple[str, str]] = {}
        self.down = False

    def open_attempts(self) -> list[dict[str, Any]]:
        if self.down:
            raise OSError("the lake is down, password=hunter2hunter2")
        return list(self.open.values())

    def end_lost(self, run_id: str, *, code: str, text: str) -> dict[str, Any] | None:
        if self.down:
            raise OSError("the lake is down")
        if self.open.pop(run_id, None) is None:
            return None
        self.ended[run_id] = (code, text)
        return {"run_id": run_id}


class Purse:
    def __init__(self, *, down: bool = False) -> None:
        self.settled: list[str] = []
        self.until_now: list[bool] = []
        self.down = down

    def settle_run(self, run_id: str, usd: Any = None, *, ran_until_now: bool = True) -> bool:
        if self.down:
            raise OSError("no database")
        self.settled.append(run_id)
        self.until_now.append(ran_until_now)
        return True


def test_a_dead_run_goes_and_a_living_one_stays(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    launch(api, OTHER)
    stranger = api.put("pods", "stranger", metadata={"labels": naming.MANAGED})
    book, purse = Book(RUN, OTHER), Purse()
    (entry,) = reap_cluster(cluster_of(api), book, purse, wait_s=60)
    assert entry == {
        "run_id": RUN,
        "run12": "0123456789ab",
        "why": "stale_lease",
        "objects_removed": 7,
        "objects_left": 0,
        "recorded": True,
        "error": None,
    }
    assert left(api, RUN) == 0
    assert left(api, OTHER) == 7
    assert stranger in api.objects.values()
    assert book.ended[RUN][0] == "orchestrator_died"
    assert list(book.open) == [OTHER]
    assert (purse.settled, purse.until_now) == ([RUN], [True])
    first = next(path for method, path, *_ in api.requests if method == "DELETE")
    assert "/configmaps/" in first, "the anchor goes first"
    assert reap_cluster(cluster_of(api), book, purse, wait_s=60) == []


def test_a_run_past_its_deadline_goes_though_it_is_kept_alive(api: TinyApi) -> None:
    launch(api, RUN)
    book = Book(RUN)
    (entry,) = reap_cluster(cluster_of(api), book, now=datetime.now(UTC) + timedelta(hours=2), wait_s=60)
    # From two hours ahead the Lease is stale as well: the orchestrator counts as dead, which explains more.
    assert entry["why"] == "stale_lease"
    launch(api, OTHER)
    for one in api.objects.values():
        notes = one["metadata"].get("annotations")
        if notes:
            notes[naming.EXPIRES_AT] = naming.rfc3339(datetime.now(UTC) - timedelta(seconds=1))
    book = Book(OTHER)
    (entry,) = reap_cluster(cluster_of(api), book, wait_s=60)
    assert (entry["why"], entry["objects_left"], entry["recorded"]) == ("past_deadline", 0, True)
    assert book.ended[OTHER][0] == "past_deadline"


def test_money_first_records_when_the_lake_is_back(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=None)
    book, purse = Book(RUN), Purse(down=True)
    book.down = True
    (entry,) = reap_cluster(cluster_of(api), book, purse, wait_s=60)
    assert (entry["why"], entry["objects_left"], entry["recorded"]) == ("no_lease", 0, False)
    assert "the lake is down" in entry["error"]
    assert "hunter2" not in entry["error"]
    assert left(api, RUN) == 0
    book.down, purse.down = False, False
    (entry,) = reap_cluster(cluster_of(api), book, purse, wait_s=60)
    assert (entry["run_id"], entry["why"], entry["recorded"]) == (RUN, "no_objects", True)
    assert (purse.settled, purse.until_now) == ([RUN], [False])  # its servers went in another pass
    assert reap_cluster(cluster_of(api), book, purse, wait_s=60) == []


def test_a_run_that_only_drove_load_did_not_pay_servers_until_now(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    for resource in ("pods", "deployments"):
        path = next(path for path in api.objects if f"/{resource}/" in path)
        api.objects[path]["metadata"]["labels"] = naming.labels(RUN, "cell", "load")
    purse = Purse()
    reap_cluster(cluster_of(api), Book(RUN), purse, wait_s=60)
    assert purse.until_now == [False]


def test_every_pass_is_seen_and_its_lease_belongs_to_no_run(api: TinyApi) -> None:
    cluster = cluster_of(api)
    assert reaper_seen(cluster) is None
    assert reap_cluster(cluster, None, wait_s=60) == []
    first = reaper_seen(cluster)
    assert first is not None
    assert abs(first - cluster.server_time()) < timedelta(seconds=60)
    lease = api.objects[f"{PATHS['Lease'][1]}/leases/{REAPER_LEASE}"]
    assert not naming.MANAGED.items() <= lease["metadata"]["labels"].items()
    lease["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z"  # stale for years, and nobody's run
    assert reap_cluster(cluster, None, wait_s=60) == []
    again = reaper_seen(cluster)
    assert again is not None
    assert again >= first


def test_two_passes_that_leave_the_first_sign_at_once_do_not_fail(api: TinyApi) -> None:
    api.faults = [Fault("POST", "/leases", "lose")]
    assert reap_cluster(cluster_of(api), None, wait_s=60) == []
    assert reaper_seen(cluster_of(api)) is not None


def test_a_sign_that_may_not_be_left_is_said_and_keeps_nothing_from_going(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    denied = status(403, "Forbidden", 'leases is forbidden: User "r" cannot patch resource "leases"')
    api.faults = [Fault("PATCH", "/leases", "status", code=403, body=denied, times=999)]
    removed, said = reap_cluster(cluster_of(api), Book(RUN), wait_s=60)
    assert (removed["objects_left"], removed["recorded"]) == (0, True)
    assert "cannot patch" in said["error"]


def test_age_goes_by_the_registration_in_the_clusters_time(api: TinyApi) -> None:
    book = Book(RUN, age_s=-9000)  # asked for by a machine whose clock is hours ahead
    book.open[RUN]["registered_at"] = (datetime.now(UTC) - timedelta(seconds=200)).isoformat()
    (entry,) = reap_cluster(cluster_of(api), book, wait_s=60)
    assert entry["recorded"]


def test_an_attempt_without_objects_is_ended_only_if_it_is_ours_old_and_unheld(api: TinyApi) -> None:
    assert reap_cluster(cluster_of(api), Book(RUN, age_s=10), wait_s=60) == []
    assert reap_cluster(cluster_of(api), Book(RUN, cluster="another"), wait_s=60) == []
    launch(api, OTHER)  # a living run, whose attempt is older than any Lease may be
    assert reap_cluster(cluster_of(api), Book(OTHER), wait_s=60) == []
    (entry,) = reap_cluster(cluster_of(api), Book(RUN, age_s=200), wait_s=60)
    assert entry["recorded"]
    assert reap_cluster(cluster_of(api), None, wait_s=60) == []


def test_a_lease_that_came_back_saves_its_run(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    lease = next(one for path, one in api.objects.items() if "/leases/" in path)
    stale = lease["spec"]["renewTime"]
    handle = api.handle

    def renewing(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        lease["spec"]["renewTime"] = stale if path.endswith("/leases") else naming.rfc3339(datetime.now(UTC))
        return handle(method, path, query, body)

    api.handle = renewing  # type: ignore[method-assign]
    assert reap_cluster(cluster_of(api), Book(RUN), wait_s=60) == []
    assert left(api, RUN) == 7


def test_a_pod_that_does_not_end_is_removed_by_force(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    launch(api, OTHER, lease_age_s=200)
    api.keep_pods = True
    pods = {run: api.objects[f"/api/v1/namespaces/ns/pods/{naming.base_name(run)}"] for run in (RUN, OTHER)}
    pods[RUN]["spec"] = {"nodeName": "lost"}
    api.put(
        "nodes", "lost", prefix="/api/v1", status={"conditions": [{"type": "Ready", "status": "Unknown"}]}
    )
    pods[OTHER]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"  # its grace is long over
    entries = reap_cluster(cluster_of(api), Book(RUN, OTHER), wait_s=60)
    assert [one["objects_left"] for one in entries] == [0, 0]
    forced = [
        path
        for method, path, _, _, body in api.requests
        if method == "DELETE" and "gracePeriodSeconds" in body
    ]
    assert {path.rsplit("/", 1)[1] for path in forced} == {naming.base_name(RUN), naming.base_name(OTHER)}


def test_a_pod_within_its_grace_is_left_to_end_and_nothing_recorded(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    api.keep_pods = True
    pod = api.objects[f"/api/v1/namespaces/ns/pods/{naming.base_name(RUN)}"]
    pod["spec"] = {"nodeName": "good"}
    pod["metadata"]["deletionTimestamp"] = naming.rfc3339(datetime.now(UTC) + timedelta(seconds=30))
    api.put("nodes", "good", prefix="/api/v1", status={"conditions": [{"type": "Ready", "status": "True"}]})
    book, purse = Book(RUN), Purse()
    (entry,) = reap_cluster(cluster_of(api), book, purse, wait_s=1)
    assert (entry["objects_left"], entry["objects_removed"], entry["recorded"]) == (1, 6, False)
    assert book.ended == {}
    assert purse.settled == []


def test_one_run_that_fails_keeps_no_other_from_going(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    launch(api, OTHER, lease_age_s=200)
    denied = status(403, "Forbidden", 'services "x" is forbidden: User "r" cannot delete resource "services"')
    stuck = f"/services/{naming.base_name(RUN)}"
    api.faults = [Fault("DELETE", stuck, "status", code=403, body=denied, times=999)]
    book = Book(RUN, OTHER)
    entries = {one["run_id"]: one for one in reap_cluster(cluster_of(api), book, wait_s=3)}
    assert (entries[OTHER]["objects_left"], entries[OTHER]["recorded"]) == (0, True)
    assert (entries[RUN]["objects_left"], entries[RUN]["recorded"]) == (1, False)
    assert "cannot delete" in entries[RUN]["error"]


def test_a_kind_that_cannot_be_listed_is_said_and_nothing_is_recorded(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    denied = status(403, "Forbidden", 'jobs.batch is forbidden: User "r" cannot list resource "jobs"')
    api.faults = [Fault("GET", "/jobs", "status", code=403, body=denied, times=999)]
    book = Book(RUN)
    removed, unseen = reap_cluster(cluster_of(api), book, wait_s=2)
    assert (removed["objects_left"], removed["recorded"]) == (0, False)
    assert unseen["why"] == "unseen"
    assert "cannot list" in unseen["error"]
    api.faults = [Fault("GET", "/leases", "status", code=403, body=denied, times=999)]
    launch(api, OTHER)
    with pytest.raises(KubeError):
        reap_cluster(cluster_of(api), book, wait_s=2)
    assert left(api, OTHER) == 7


def test_a_flaky_api_and_an_object_gone_meanwhile_change_nothing(api: TinyApi) -> None:
    launch(api, RUN, lease_age_s=200)
    api.faults = [
        Fault("DELETE", "/deployments/", "lose"),
        Fault("DELETE", "/pods/", "status", code=500),
        Fault("GET", "/services", "drop"),
        Fault("DELETE", "/jobs/", "status", code=409, body=status(409, "Conflict", "modified")),
    ]
    (entry,) = reap_cluster(cluster_of(api), Book(RUN), wait_s=60)
    assert (entry["objects_left"], entry["recorded"], entry["error"]) == (0, True, None)


@pytest.mark.parametrize("stopped_after", range(1, 9))
def test_a_pass_that_was_killed_is_finished_by_the_next(api: TinyApi, stopped_after: int) -> None:
    launch(api, RUN, lease_age_s=200)
    book = Book(RUN)
    cluster, count = cluster_of(api), itertools.count(1)
    delete = cluster.delete

    def dying(*args: Any, **more: Any) -> bool:
        if next(count) == stopped_after:
            raise KeyboardInterrupt
        return delete(*args, **more)

    cluster.delete = dying  # type: ignore[method-assign]
    if stopped_after <= 7:
        with pytest.raises(KeyboardInterrupt):
            reap_cluster(cluster, book, wait_s=60)
    entries = reap_cluster(cluster_of(api), book, wait_s=60)
    assert [one["recorded"] for one in entries] == [True]
    assert left(api, RUN) == 0


def test_removing_a_run_takes_all_of_it_and_nothing_else(api: TinyApi) -> None:
    launch(api, RUN)
    launch(api, OTHER)
    cluster = cluster_of(api)
    assert remove_run(cluster, RUN, wait_s=60) == []
    assert (left(api, RUN), left(api, OTHER)) == (0, 7)
    assert remove_run(cluster, RUN, wait_s=60) == []
    api.keep_pods = True
    assert remove_run(cluster, OTHER, wait_s=0.2) == [f"Pod/{naming.base_name(OTHER)}"]


def test_removing_asks_for_the_anchor_even_if_nothing_can_be_listed(api: TinyApi) -> None:
    launch(api, RUN)
    denied = status(403, "Forbidden", 'x is forbidden: User "r" cannot list resource "x"')
    api.faults = [Fault("GET", "/", "status", code=403, body=denied, times=999)]
    with pytest.raises(KubeError, match="cannot list"):
        remove_run(cluster_of(api), RUN, wait_s=1)
    assert not any("/configmaps/" in path for path in api.objects)
