"""Which runs are dead: decided on paper, from states that are read from whatever objects there are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.reap import RunState, decide, run_states
from tests.launch.reap_cases import RUN

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


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
        # It may be committing.
        ({"expires_at": ago(9000), "objects": ("ConfigMap/a", "Service/a", "Lease/a")}, None),
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
