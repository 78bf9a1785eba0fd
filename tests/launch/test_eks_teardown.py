"""Leaving is done to its end, whatever interrupts it, and what stays is told; no launch where nobody tidies up."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch import eks
from accelbench_assets.launch.base import Deadline
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube.naming import base_name, labels, parse_time, rfc3339
from accelbench_assets.launch.kube.reap import REAPER_LEASE, heartbeat
from accelbench_assets.launch.kube.teardown import remove_parts, still_there, undisturbed
from accelbench_assets.settings import Settings
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.tiny_api import Fault, TinyApi, cluster_of, status

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"


@pytest.fixture
def api(api: TinyApi) -> TinyApi:
    api.put("namespaces", "ns", prefix="/api/v1")
    return api


def launcher(api: TinyApi, home: Path, **kube: object) -> EksLauncher:
    settings = Settings(home=home, kube=KubeSettings.model_validate({"namespace": "ns", **kube}))
    return EksLauncher(settings, "s3://bucket/lake", cluster=cluster_of(api))


def test_interrupts_do_not_cut_it_short_and_are_not_forgotten() -> None:
    done: list[str] = []
    struck = [threading.Event(), threading.Event()]

    def work() -> None:
        for one in struck:
            os.kill(os.getpid(), signal.SIGINT)
            assert one.wait(60)
            time.sleep(0.2)  # an interrupt within the handling of another one is a matter of microseconds
        done.append("removed")

    def strike(*_: object) -> None:
        next(one for one in struck if not one.is_set()).set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, strike)
    try:
        with pytest.raises(KeyboardInterrupt):
            undisturbed(work, limit_s=120)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["removed"]


def test_it_is_bounded_in_time() -> None:
    let_go = threading.Event()
    undisturbed(lambda: let_go.wait(60) and None, limit_s=0.2)
    assert not let_go.is_set(), "it came back before the work had ended"
    let_go.set()


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        undisturbed(work)


def test_nothing_paid_starts_where_no_reaper_was_seen(api: TinyApi, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="never looked") as caught:
        launcher(api, tmp_path).attempt_facts()
    assert caught.value.code == "no_reaper"
    assert "80-reaper.yaml" in str(caught.value.hint)
    heartbeat(cluster_of(api))
    facts = launcher(api, tmp_path).attempt_facts()
    assert (set(facts), facts["namespace"]) == ({"cluster", "namespace", "registered_at"}, "ns")
    registered = parse_time(facts["registered_at"])
    assert registered is not None
    assert registered.utcoffset() == timedelta(0)
    assert abs(registered - datetime.now(UTC)) < timedelta(seconds=60)
    lease = next(one for path, one in api.objects.items() if path.endswith(REAPER_LEASE))
    lease["spec"]["renewTime"] = rfc3339(datetime.now(UTC) - timedelta(seconds=905))
    with pytest.raises(LaunchError, match="was last at work"):
        launcher(api, tmp_path).attempt_facts()
    launcher(api, tmp_path, require_reaper=False).attempt_facts()


def test_what_stays_is_known_until_it_is_gone(api: TinyApi) -> None:
    cluster, name = cluster_of(api), base_name(RUN)
    api.keep_pods = True
    pod = api.put("pods", name, metadata={"labels": labels(RUN, "cell", "server")})
    api.put("deployments", name, prefix="/apis/apps/v1/namespaces/ns")
    denied = status(
        403, "Forbidden", 'deployments is forbidden: User "x" cannot delete resource "deployments"'
    )
    api.faults = [Fault("DELETE", "/deployments", "status", code=403, body=denied, times=9)]
    assert "cannot delete" in remove_parts(cluster, RUN)[0]
    assert still_there(cluster, RUN, 0.0) == [name, f"Deployment {name}"]
    api.faults = []
    assert remove_parts(cluster, RUN) == []
    assert still_there(cluster, RUN, 0.0) == [name]
    del api.objects[f"/api/v1/namespaces/ns/pods/{pod['metadata']['name']}"]
    assert still_there(cluster, RUN, 0.0) == []
    api.faults = [Fault("GET", "/deployments", "status", code=403, body=denied, times=9)]
    assert "perhaps" in still_there(cluster, RUN, 0.0)[0], "what cannot be asked may be there"


def test_an_attempt_tells_what_it_could_not_remove(api: TinyApi, tmp_path: Path) -> None:
    one, said = launcher(api, tmp_path), []
    with one.attempt(RUN, "cell", Deadline.after(60), lambda: None) as hold:
        assert one._attempt is not None
        one._attempt.on_event = lambda kind, message, data: said.append((kind, message))
        denied = status(403, "Forbidden", 'leases is forbidden: User "x" cannot delete resource "leases"')
        api.faults = [Fault("DELETE", "/leases", "status", code=403, body=denied, times=999)]
    assert [kind for kind, _ in said] == ["warning"]
    assert base_name(RUN) in said[0][1] or RUN in said[0][1]
    assert hold.warnings == [text for _, text in said]  # type: ignore[attr-defined]


def test_an_attempt_tells_of_a_removal_that_takes_too_long(
    api: TinyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eks, "undisturbed", lambda work: undisturbed(work, limit_s=0.1))
    let_go = threading.Event()
    monkeypatch.setattr(eks, "_remove_whole", lambda *_, **__: let_go.wait(60) and [])
    with launcher(api, tmp_path).attempt(RUN, "cell", Deadline.after(60), lambda: None) as hold:
        pass
    assert ["did not end in time" in text for text in hold.warnings] == [True]  # type: ignore[attr-defined]
    let_go.set()
