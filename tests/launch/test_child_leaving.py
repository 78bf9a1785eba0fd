"""A child that rents machines is given the time it says it needs to give them back, and what ends the wait is said."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.launch.base import Deadline, ServerSpec
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube import teardown
from accelbench_assets.settings import Settings
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.tiny_api import cluster_of, tiny_api
from tests.support.children import interrupted
from tests.support.runs import make_cell
from tests.support.waiting import HANG_S

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
# Stands for the orchestrating child: at an interrupt it takes longer than any other child is given.
CHILD = """
import json, os, sys, threading, time
def emit(kind, message="", **data):
    print(json.dumps(dict(kind=kind, message=message, data=data)), flush=True)
def nudged():
    sys.stdin.read()
    open("nudged", "w").close()
threading.Thread(target=nudged, daemon=True).start()
try:
    emit("phase", "asking the cluster for servers", leaving_s=LEAVING)
    emit("phase", "ready")
    time.sleep(600)
except KeyboardInterrupt:
    emit("phase", "taking the servers away", leaving=True)
    time.sleep(TAKES)
    open("gone", "w").close()
    emit("error", "Interrupted.", exit_code=130)
    os._exit(130)  # a thread reads stdin
"""


def ran(tmp_path: Path, *, leaving_s: float, takes_s: float, interrupts: int) -> tuple[list[str], str]:
    """What the command line made of it (interrupted, kind, return code) and all it said; its own grace is 0.2 s."""
    code = CHILD.replace("LEAVING", str(leaving_s)).replace("TAKES", str(takes_s))
    blows = [(signal.SIGINT, "ready"), (signal.SIGINT, "interrupted:")][:interrupts]
    return interrupted(code, blows, tmp_path, clean_up_s=0.2, nudge_s=0.1)


def test_it_may_take_as_long_as_it_said(tmp_path: Path) -> None:
    end, said = ran(tmp_path, leaving_s=600, takes_s=1.5, interrupts=1)
    assert end == ["True", "error", "130"]
    assert (tmp_path / "gone").exists()
    assert not (tmp_path / "nudged").exists(), "one that said it is leaving is not told a second time"
    assert "waiting at most 600 s until the rented machines are given back" in said
    assert "again leaves that to `accelbench reap --cluster`" in said
    assert "may still be there" not in said


def test_a_second_interrupt_leaves_the_machines_to_the_reaper_and_says_so(tmp_path: Path) -> None:
    end, said = ran(tmp_path, leaving_s=600, takes_s=600, interrupts=2)
    assert end == ["True", "None", "-9"]
    assert "warning: rented machines may still be there: `accelbench reap --cluster`" in said


def test_one_that_takes_longer_than_it_said_is_ended_and_the_reaper_named(tmp_path: Path) -> None:
    end, said = ran(tmp_path, leaving_s=0.4, takes_s=600, interrupts=1)
    assert end == ["True", "None", "-9"]
    assert "`accelbench reap --cluster`" in said


def test_a_child_that_rents_nothing_is_as_before(tmp_path: Path) -> None:
    end, said = ran(tmp_path, leaving_s=0, takes_s=600, interrupts=1)
    assert end == ["True", "None", "-9"]
    assert "interrupted: stopping the engine and writing the record (again to kill)" in said
    assert "reap --cluster" not in said


def test_the_launcher_says_how_long_before_it_asks_for_anything_and_when_it_begins(tmp_path: Path) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    with tiny_api() as api:
        api.put("namespaces", "ns", prefix="/api/v1")
        kube = KubeSettings.model_validate({"namespace": "ns"})
        one = EksLauncher(Settings(home=tmp_path, kube=kube), "s3://bucket/lake", cluster=cluster_of(api))
        spec = ServerSpec(RUN, make_cell(), "example/model", tmp_path)  # of no instance: it cannot be served
        deadline = Deadline.after(60)
        with (
            pytest.raises(AccelBenchError),
            one.attempt(RUN, "cell", deadline, lambda: None),
            one.serve(spec, deadline, lambda kind, text, data: said.append((kind, dict(data)))),
        ):
            pass
    assert said[0] == ("phase", {"leaving_s": teardown.LEAVING_S})
    assert ("phase", {"leaving": True}) in said[1:]
    # Twice it removes, each time bounded; in between the record is written.
    assert teardown.LEAVING_S >= 2 * teardown.LIMIT_S + teardown.RECORDING_S


def test_telling_of_it_neither_holds_the_removal_up_nor_ends_it() -> None:
    removed, told = threading.Event(), threading.Event()

    def tell() -> None:
        assert removed.wait(HANG_S), "the removal waits for the telling"
        told.set()
        raise OSError("the database of the event log is down")

    teardown.undisturbed(removed.set, HANG_S, tell)
    assert told.is_set()
