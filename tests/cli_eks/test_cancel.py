"""``cancel`` of a run whose orchestrator is elsewhere: the wish goes by its Lease."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube.client import Cluster
from tests.cli_eks.conftest import Bench, Shown

Call = Callable[..., Shown]
Make = Callable[..., Bench]


@contextmanager
def orchestrated(one: Bench, lake: Lake, status: str = "cancelled") -> Iterator[list[str]]:
    """An orchestrator that records the end it is asked for; what its Lease told it."""
    heard: list[str] = []
    stop = threading.Event()

    def work() -> None:
        with one.keeper() as lease:
            ready.set()
            while not stop.wait(0.02):
                try:
                    lease.check()
                except LaunchError as error:
                    heard.append(f"{error.code}: {error.message}")
                    lake.finish({**one.record, "status": status, "failure_code": error.code})
                    return

    ready = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(60)
    try:
        yield heard
    finally:
        stop.set()
        thread.join()


def test_the_orchestrator_reads_the_wish_and_the_record_tells(run_of: Make, lake: Lake, call: Call) -> None:
    one = run_of()
    with orchestrated(one, lake) as heard:
        shown = call("cancel", one.run_id[-6:], "--json")
    assert shown.code == 0, shown.err
    assert shown.rows[0]["run_id"] == one.run_id
    assert shown.rows[0]["status"] == "cancelled"
    assert "wrote the wish to its Lease" in shown.err
    (said,) = heard
    assert said.startswith("cancelled: The run was cancelled by ")
    again = call("cancel", one.run_id)
    assert again.code == 0
    assert "had been cancelled before" in again.err


def test_a_wish_that_came_too_late_is_no_success(run_of: Make, lake: Lake, call: Call) -> None:
    one = run_of()
    with orchestrated(one, lake, status="failed"):
        shown = call("cancel", one.run_id)
    assert shown.code == 1
    assert "was told too late: it ended as failed" in shown.err
    again = call("cancel", one.run_id)
    assert again.code == 1
    assert "had ended before, as failed" in again.err


def test_waiting_is_bounded(run_of: Make, lake: Lake, call: Call) -> None:
    one = run_of()
    with one.keeper():
        shown = call("cancel", one.run_id, "--wait", "0.3")
        assert shown.code == 1
        assert "has not ended within 0.3 s" in shown.err
        assert call("cancel", one.run_id, "--wait", "0").code == 0
    assert [attempt["run_id"] for attempt in lake.open_attempts()] == [one.run_id]


def test_what_cannot_be_told_is_said(run_of: Make, lake: Lake, call: Call) -> None:
    one = run_of()
    shown = call("cancel", one.run_id)
    assert shown.code == 1
    assert "has no Lease" in shown.err
    elsewhere = run_of(cluster="another-uid")
    shown = call("cancel", elsewhere.run_id)
    assert shown.code == 1
    assert "is on another cluster" in shown.err
    for text in ("nothing", "0"):
        shown = call("cancel", text)
        assert shown.code == 2, shown.err
    assert f"matches 2 runs under way: {min(one.run_id, elsewhere.run_id)}" in shown.err


def test_a_refused_patch_is_one_sentence(run_of: Make, cluster: Cluster, kube: object, call: Call) -> None:
    one = run_of()
    with one.keeper():
        kube.set_faults(
            [{"match": {"verb": "patch", "resource": "leases", "user_agent": "accelbench"}, "do": "deny"}]
        )  # type: ignore[attr-defined]
        shown = call("cancel", one.run_id)
    assert shown.code == 1
    assert "Kubernetes refused changing Lease" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("words", [["cancel", "abcd"], ["cancel", "abcd", "--json"]])
def test_an_unknown_run_names_those_under_way(run_of: Make, call: Call, words: list[str]) -> None:
    one = run_of()
    shown = call(*words)
    assert (shown.code, shown.out) == (2, "")
    assert "No run 'abcd' in the lake" in shown.err
    assert one.run_id in shown.err
