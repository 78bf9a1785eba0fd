"""Sensors that look at the same moment share one month's caps: what one has taken, the next does not see as free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.defs.sensors import PARTITION_TAG, USD_TAG, evaluate
from accelbench_assets.releases.cursor import Cursor, State, encode, month_of
from accelbench_assets.releases.follow import Found
from accelbench_assets.releases.look import Look
from accelbench_assets.releases.promises import Promise, Promises
from accelbench_assets.releases.subjects import NEURON, VLLM, ModelRevision
from accelbench_assets.releases.web import ReleaseError
from accelbench_assets.settings import Settings
from partitions.cell import BenchmarkCell
from tests.support.waiting import HANG_S

MODEL = ModelRevision("qwen3-8b")
COMMIT = "feed5eed" * 5
FOUND = {
    "new_vllm_release": Found(VLLM.name, "0.34.0", "sha256:" + "a" * 64, "reg.example/vllm:v0.34.0"),
    "new_neuron_sdk": Found(NEURON.name, "0.13.1-neuron2.28.1", "sha256:" + "b" * 64, "reg.example/neuron:2"),
    "new_model_revision": Found(MODEL.name, COMMIT, COMMIT, f"Qwen/Qwen3-8B@{COMMIT}"),
}
KNOWN = {VLLM.name: "0.33.0", NEURON.name: "0.13.0-neuron2.28.0", MODEL.name: "0" * 40}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as one:
        yield one


@pytest.fixture(autouse=True)
def caps(home: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    settings = {"SUITES": '["catalog"]', "DRY_RUN": "false", "MAX_RUNS_PER_TICK": "4"}
    settings |= {"MAX_RUNS_PER_MONTH": "5", "MAX_USD_PER_MONTH": "100000"}
    for name, value in settings.items():
        monkeypatch.setenv(f"ACCELBENCH_WATCH__{name}", value)
    monkeypatch.setenv("ACCELBENCH_BUDGET__MAX_USD_PER_RUN", "500")
    return monkeypatch


def cursor_of(known: dict[str, str]) -> str:
    then = datetime.now(UTC) - timedelta(hours=2)
    return encode(Cursor(then, month_of(then), subjects={name: State(v) for name, v in known.items()}))


def tick(
    name: str,
    instance: dg.DagsterInstance,
    meet: Callable[[], object] = lambda: None,
    cursor: str | None = None,
) -> list[dg.RunRequest]:
    """One look of the sensor *name*, which finds its release; *meet* is called when all has been looked up."""

    def looker(settings: Settings, cells: Sequence[BenchmarkCell], known: Cursor | None) -> Look:
        meet()
        return Look((FOUND[name],), ())

    given = cursor or cursor_of(KNOWN)
    with dg.build_sensor_context(instance=instance, cursor=given, sensor_name=name) as context:
        done = evaluate(context, AccelBench(), looker)
    return list(done.run_requests or []) if isinstance(done, dg.SensorResult) else []


def launch(instance: dg.DagsterInstance, requests: Sequence[dg.RunRequest]) -> None:
    """As the daemon does once a tick has ended."""
    for one in requests:
        tags = {**one.tags, PARTITION_TAG: one.partition_key or ""}
        instance.add_run(dg.DagsterRun(job_name="__ASSET_JOB", tags=tags))


def test_looks_before_any_run_is_there_share_the_months_runs(instance: dg.DagsterInstance) -> None:
    asked = [tick(name, instance) for name in FOUND]
    assert [len(requests) for requests in asked] == [4, 1, 0]
    for requests in asked:
        launch(instance, requests)
    assert [len(tick(name, instance)) for name in FOUND] == [0, 0, 0], (
        "runs count as their promises did, once"
    )


def test_looks_at_the_same_moment_share_them_too(instance: dg.DagsterInstance) -> None:
    together = threading.Barrier(len(FOUND))
    with ThreadPoolExecutor(len(FOUND)) as pool:
        asked = list(pool.map(lambda name: tick(name, instance, lambda: together.wait(HANG_S)), FOUND))
    assert sum(len(requests) for requests in asked) == 5


def test_they_share_the_months_money(instance: dg.DagsterInstance, caps: pytest.MonkeyPatch) -> None:
    caps.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_MONTH", "1000")
    caps.setenv("ACCELBENCH_WATCH__MAX_USD_PER_MONTH", "12")
    asked = [one for name in FOUND for one in tick(name, instance)]
    each = [Decimal(one.tags[USD_TAG]) for one in asked]
    assert each
    assert sum(each) <= Decimal(12)
    assert sum(each) + min(each) > Decimal(12), "what is left is used"


def test_what_was_never_launched_is_free_again_at_the_sensors_next_look(instance: dg.DagsterInstance) -> None:
    assert len(tick("new_vllm_release", instance)) == 4
    # The daemon died before it made a run or kept the cursor: the same look again asks for the same.
    again = tick("new_vllm_release", instance)
    assert len(again) == 4
    # Its release is known by now, it asks for nothing more, and nothing was launched.
    seen = cursor_of({**KNOWN, VLLM.name: "0.34.0"})
    assert tick("new_vllm_release", instance, cursor=seen) == []
    assert len(tick("new_model_revision", instance)) == 4


def test_a_look_that_failed_holds_nothing() -> None:
    promises, one = Promises(), Promise("cell", "ref", Decimal(1))

    def fail() -> None:
        with promises.turn("lake", "a") as turn:
            turn.take([one])
            raise OSError("down")

    with pytest.raises(OSError, match="down"):
        fail()
    with promises.turn("lake", "b") as turn:
        assert turn.others == ()
        turn.take([one])
    with promises.turn("another lake", "a") as turn:
        assert turn.others == ()
    with promises.turn("lake", "b") as turn:
        assert turn.others == (), "its own are runs by now, or were dropped"
    with promises.turn("lake", "b") as turn:
        turn.take([one])
    with promises.turn("lake", "a") as turn:
        assert turn.others == (one,)
    promises.forget("lake", "b")
    with promises.turn("lake", "a") as turn:
        assert turn.others == ()


def test_who_waits_too_long_for_its_turn_looks_again_later() -> None:
    promises = Promises(longest_s=0.05)

    def second() -> None:
        with promises.turn("lake", "b"):
            pass

    with promises.turn("lake", "a"), pytest.raises(ReleaseError, match="still handing"):
        second()
    second()
