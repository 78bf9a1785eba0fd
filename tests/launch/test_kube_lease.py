"""A run's Lease: who keeps it, who lost it, and who asked for the end."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.lease import LeaseKeeper, holder_identity, lease_manifest, request_cancel
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.tiny_api import Fault, TinyApi, cluster_of, status
from tests.support.waiting import until

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/accelbench-0123456789ab"
ANCHOR = {"metadata": {"name": "accelbench-0123456789ab", "uid": "uid-of-anchor"}}
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)


def keeper(api: TinyApi, *, renew_s: float = 0.1, stale_s: float = 60.0, **more: Any) -> LeaseKeeper:
    kube = KubeSettings(namespace="ns", lease_renew_s=renew_s, lease_stale_s=stale_s)
    return LeaseKeeper(cluster_of(api, timeout_s=30.0), RUN, "cell", ANCHOR, kube, EXPIRES, **more)


def code_of(one: LeaseKeeper) -> str | None:
    try:
        one.check()
    except LaunchError as error:
        return error.code
    return None


def renewed_at(api: TinyApi) -> datetime:
    moment = naming.parse_time(api.objects[LEASE]["spec"]["renewTime"])
    assert moment is not None
    return moment


def test_it_is_created_with_all_that_a_reaper_needs(api: TinyApi) -> None:
    with keeper(api, stale_s=90.5) as one:
        one.check()
        lease = api.objects[LEASE]
    metadata, spec = lease["metadata"], lease["spec"]
    assert metadata["ownerReferences"][0]["uid"] == "uid-of-anchor"
    assert metadata["labels"]["app.kubernetes.io/component"] == "lease"
    assert metadata["annotations"] == {
        "accelbench.io/run-id": RUN,
        "accelbench.io/expires-at": "2030-01-01T00:00:00.000000Z",
        "accelbench.io/stale-s": "90.5",
    }
    assert spec["leaseDurationSeconds"] == 91
    assert spec["holderIdentity"] == holder_identity()
    assert spec["renewTime"].endswith("Z")
    assert len(spec["renewTime"]) == len("2030-01-01T00:00:00.000000Z")
    assert abs(renewed_at(api) - datetime.now(UTC)) < timedelta(seconds=60)


def test_it_is_renewed_in_the_servers_time_until_the_end(api: TinyApi) -> None:
    told: list[float] = []
    with keeper(api, on_renew=lambda: told.append(time.monotonic())) as one:
        first = renewed_at(api)
        until(lambda: renewed_at(api) > first + timedelta(seconds=0.3), "renewed")
        until(lambda: len(told) >= 3, "told the owner")
        one.check()
    assert not one.warnings
    until(lambda: not one._thread.is_alive(), "its thread ends, so nobody renews any more")


def test_one_whose_answer_was_lost_is_still_ours(api: TinyApi) -> None:
    api.faults = [Fault("POST", "/leases", "lose")]
    with keeper(api) as one:
        until(lambda: api.calls("PATCH") > 1, "renewed")
        one.check()


def test_a_run_that_somebody_else_works_on_is_left_alone(api: TinyApi) -> None:
    cluster = cluster_of(api)
    manifest = lease_manifest(RUN, "cell", ANCHOR, now=datetime.now(UTC), expires_at=EXPIRES, stale_s=60)
    manifest["spec"]["holderIdentity"] = "elsewhere_7"
    cluster.create(manifest)
    with pytest.raises(KubeError, match="worked on by elsewhere_7") as caught, keeper(api):
        pass
    assert caught.value.code == "conflict"


def test_a_wish_to_cancel_is_seen_and_names_who(api: TinyApi) -> None:
    assert not request_cancel(cluster_of(api), RUN, "nobody yet")
    with keeper(api, renew_s=0.2) as one:
        assert request_cancel(cluster_of(api), RUN, "alice")
        until(lambda: code_of(one) == "cancelled", "cancelled")
        with pytest.raises(LaunchError, match="cancelled by alice"):
            one.check()
        del api.objects[LEASE]
        assert code_of(one) == "cancelled", "the first word stays"


def test_a_long_pause_between_renewals_still_looks_for_it(
    api: TinyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelbench_assets.launch.kube.lease.LOOK_S", 0.1)
    with keeper(api, renew_s=600.0) as one:
        request_cancel(cluster_of(api), RUN, "bob")
        until(lambda: code_of(one) == "cancelled", "cancelled")
    assert api.calls("PATCH") == 1, "only the wish itself"


@pytest.mark.parametrize("loss", ["gone", "holder", "made anew", "deleting"])
def test_a_lost_lease_is_known(api: TinyApi, loss: str) -> None:
    with keeper(api) as one:
        lease = api.objects[LEASE]
        if loss == "gone":
            del api.objects[LEASE]
        elif loss == "holder":
            lease["spec"]["holderIdentity"] = "somebody-else_1"
        elif loss == "made anew":
            lease["metadata"]["uid"] = "another"
        else:
            lease["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        until(lambda: code_of(one) == "lease_lost", "lost")


def test_failures_are_borne_until_the_lease_is_stale(api: TinyApi) -> None:
    with keeper(api) as one:
        api.faults = [Fault("PATCH", "/leases", "status", code=500, times=3)]
        until(lambda: api.calls("PATCH") > 5, "renewed after all")
        one.check()
    api.objects.clear()
    with keeper(api, stale_s=3.0) as one:
        one.check()
        before = renewed_at(api)
        denied = status(403, "Forbidden", 'leases is forbidden: User "x" cannot patch resource "leases"')
        api.faults = [
            Fault("PATCH", "/leases", "status", code=403, body=denied, times=999),
            Fault("GET", "/leases", "drop", times=999),
        ]
        until(lambda: code_of(one) == "lease_lost", "lost")
        assert datetime.now(UTC) - before > timedelta(seconds=2.5), "not before it is stale"
        with pytest.raises(LaunchError, match=r"was not renewed for \d+ s \(.*cannot patch"):
            one.check()


def test_an_owner_that_fails_or_hangs_does_not_stop_it(api: TinyApi) -> None:
    hang, calls = threading.Event(), []

    def owner() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise LaunchError("The ledger is down.", code="no_ledger")
        hang.wait(600)

    with keeper(api, renew_s=0.05, on_renew=owner) as one:
        until(lambda: len(calls) == 2, "called again after its failure")
        before = api.calls("PATCH")
        until(lambda: api.calls("PATCH") > before + 3, "renewed though the owner hangs")
        one.check()
        hang.set()
    assert one.warnings == ["The ledger is down.", "the previous renewal's follow-up is still under way"]


def test_a_run_that_the_ledger_settled_as_dead_is_lost(api: TinyApi) -> None:
    def owner() -> None:
        raise LaunchError("The reaper has settled this run.", code="lease_lost")

    with keeper(api, on_renew=owner) as one:
        until(lambda: code_of(one) == "lease_lost", "lost")
        with pytest.raises(LaunchError, match="has settled"):
            one.check()
        until(lambda: not one._thread.is_alive(), "a lost run's Lease is left to go stale")
    assert one.warnings == []


def test_leaving_does_not_wait_for_a_frozen_server(api: TinyApi) -> None:
    with keeper(api) as one:
        api.faults = [Fault("PATCH", "/leases", "freeze", seconds=2.0, times=9)]
        before = api.calls("PATCH")
        until(lambda: api.calls("PATCH") > before, "a renewal is under way")
    assert one._thread.is_alive(), "it was not waited for"
    until(lambda: not one._thread.is_alive(), "its thread ends with its call")
