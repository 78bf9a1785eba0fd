"""Nothing of a dead run stays, and nothing of a living one goes: passes over a small API that fails in its turn."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.reap import REAPER_LEASE, reap_cluster, reaper_seen, remove_run
from tests.launch.reap_cases import OTHER, PATHS, RUN, Book, Purse, launch, left
from tests.launch.tiny_api import Fault, TinyApi, cluster_of, status


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
