"""``reap --cluster``: what died goes with all it left, what lives stays, exit 1 says that something could not go."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube import naming
from tests.cli_eks.conftest import Bench, Shown, dead_lease
from tests.launch.kube.harness import KubeLocal

Call = Callable[..., Shown]
Make = Callable[..., Bench]
STALE_S = 0.3
CLOCK_S = 1.1  # a client knows the server's time to a second, and the reaper is another client than the test


@pytest.fixture
def dead(run_of: Make) -> Bench:
    """A run whose Lease went stale."""
    one = run_of(stale_s=STALE_S)
    with dead_lease(one):
        end = time.monotonic() + 60
        while _age_s(one) < STALE_S + CLOCK_S:
            assert time.monotonic() < end
            time.sleep(0.02)
    return one


def _age_s(one: Bench) -> float:
    lease = one.cluster.get("Lease", naming.base_name(one.run_id))
    assert lease is not None
    renewed = naming.parse_time(lease["spec"]["renewTime"])
    assert renewed is not None
    return (one.cluster.server_time() - renewed).total_seconds()


def names(kube: KubeLocal, one: Bench) -> set[str]:
    return {f"{o['kind']}" for o in kube.objects(naming.selector(one.run_id))}


def test_the_dead_go_and_the_living_stay(
    dead: Bench, run_of: Make, kube: KubeLocal, lake: Lake, call: Call
) -> None:
    living = run_of()
    with living.keeper():
        foreseen = call("reap", "--cluster", "--dry-run", "--json")
        assert foreseen.code == 0, foreseen.err
        assert [(r["run_id"], r["why"], r["objects_left"]) for r in foreseen.rows] == [
            (dead.run_id, "stale_lease", 2)
        ]
        assert names(kube, dead) == {"ConfigMap", "Lease"}, "a dry run removes nothing"
        assert lake.run_record(dead.run_id) is None
        shown = call("reap", "--cluster", "--json")
        assert shown.code == 0, shown.err
        (row,) = shown.rows
        assert (row["run_id"], row["where"], row["why"]) == (dead.run_id, "cluster", "stale_lease")
        assert (row["objects_left"], row["recorded"], row["error"]) == (0, True, None)
        assert names(kube, dead) == set()
        assert names(kube, living) == {"ConfigMap", "Lease"}
    record = lake.run_record(dead.run_id)
    assert record is not None
    assert (record["status"], record["failure_code"]) == ("infra_lost", "orchestrator_died")
    assert "reservations of dead runs expire by themselves" in shown.err
    again = call("reap", "--cluster")
    assert (again.code, again.out) == (0, "")
    assert "Nothing to close." in again.err


def test_the_setting_is_enough(
    dead: Bench, kube: KubeLocal, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("reap", "--json").rows == []
    assert names(kube, dead)
    monkeypatch.setenv("ACCELBENCH_LAUNCHER", "eks")
    shown = call("reap")
    assert shown.code == 0
    assert dead.run_id in shown.out
    assert not names(kube, dead)


def test_what_cannot_be_removed_is_exit_1(dead: Bench, kube: KubeLocal, lake: Lake, call: Call) -> None:
    kube.set_faults([{"match": {"verb": "delete", "user_agent": "accelbench-reap"}, "do": "deny"}])
    shown = call("reap", "--cluster", "--json", "--wait", "1")
    assert shown.code == 1
    assert "Not everything could be closed" in shown.err
    (row,) = shown.rows
    assert row["objects_left"] == 2
    assert not row["recorded"]
    assert lake.run_record(dead.run_id) is None, "what is not gone is not recorded as ended"


def test_a_lake_that_is_down_keeps_no_node(dead: Bench, kube: KubeLocal, home: Path, call: Call) -> None:
    (home.parent / "file").write_text("")
    shown = call("--lake", str(home.parent / "file" / "lake"), "reap", "--cluster", "--json")
    assert not names(kube, dead)
    assert shown.code == 1
    assert shown.rows[0]["objects_left"] == 0


def test_no_cluster_is_a_sentence_and_this_machine_is_still_seen_to(
    home: Path, lake: Lake, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(home / "nothing"))
    shown = call("reap", "--cluster", "--json")
    assert shown.code == 1
    assert shown.rows == []
    assert "No Kubernetes cluster is configured" in shown.err
    assert "hint: " in shown.err
