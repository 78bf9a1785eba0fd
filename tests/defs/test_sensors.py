"""What the release sensors ask Dagster for, once, and when they ask for nothing: against real servers."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.definitions import all_assets
from accelbench_assets.defs.sensors import SENSORS, TICK_S, USD_TAG, spent_this_month
from accelbench_assets.errors import UsageError
from accelbench_assets.releases.follow import Spent
from accelbench_assets.releases.neuron import NEURON_IMAGE
from accelbench_assets.releases.registry import VLLM_IMAGE
from tests.defs.sensor_ticks import (
    CANARY,
    MODEL,
    NEURON,
    VLLM,
    Ticks,
    instance,
    lake,
    older,
    sources,
    storage,
    watching,
)
from tests.releases.sources import Running, Sources

__all__ = ["instance", "sources", "storage", "watching"]  # the fixtures

NEURON_TAG = "0.13.1-neuronx-py312-sdk2.28.1-ubuntu24.04"


def test_a_release_seen_twice_with_the_index_down_between_is_followed_once(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_TICK", "40")
    tick = Ticks(VLLM, instance)
    assert tick() == []
    assert "first look" in (tick.skipped or "")
    sources.release("0.34.0")
    assert len(tick()) == 40
    before = tick.cursor
    sources.down = True
    assert tick() == []
    assert "does not answer" in (tick.skipped or "")
    assert tick.cursor == older(before), "a look that failed leaves the cursor as it was"
    sources.down = False
    while tick():
        pass
    tick()
    keys = [request.partition_key for request in tick.asked]
    assert len(keys) > 100
    assert len(keys) == len(set(keys)) == len({request.run_key for request in tick.asked})
    assert sorted(keys, key=str) == sorted(tick.added)
    assert all(key is not None and "~vllm-0.34.0~" in key for key in keys)
    assert {cell.key_text for cell in lake().cells()} == set(keys)


def test_a_request_names_its_assets_partition_source_and_artefact(
    instance: dg.DagsterInstance, sources: Sources
) -> None:
    tick = Ticks(VLLM, instance)
    tick()
    sources.release("0.34.0")
    digest = sources.images[VLLM_IMAGE]["v0.34.0"]
    first = tick()[0]
    cell = lake().find_cell(first.partition_key or "")
    assert cell is not None
    assert first.run_key == f"{cell.cell_id}:{digest}"
    assert [key.to_user_string() for key in first.asset_selection or []] == [
        f"raw_samples_{cell.family}",
        f"run_percentiles_{cell.family}",
    ]
    ref = f"{sources.url.removeprefix('http://')}/{VLLM_IMAGE}:v0.34.0@{digest}"
    assert first.tags["triggered_by"] == "sensor"
    assert first.tags["trigger_ref"] == first.tags["accelbench/image"] == ref
    assert Decimal(first.tags[USD_TAG]) > 0
    assert first.tags["dagster/partition"] == first.partition_key


def test_a_new_neuron_sdk_and_a_new_revision_are_followed_by_their_own_sensors(
    instance: dg.DagsterInstance, sources: Sources
) -> None:
    neuron, model = Ticks(NEURON, instance), Ticks(MODEL, instance)
    neuron(), model()
    sources.image(NEURON_IMAGE, NEURON_TAG)
    commit = sources.commits["Qwen/Qwen3-8B"] = "feed5eed" * 5
    keys = [request.partition_key or "" for request in neuron()]
    assert len(keys) == 4
    assert {key.split("~")[1].split(".")[0] for key in keys} == {"inf2", "trn1"}
    assert all("~vllm-0.13.1-neuron2.28.1~" in key for key in keys)
    requests = model()
    assert len(requests) == 4
    assert all((request.partition_key or "").startswith("qwen3-8b@feed5ee~") for request in requests)
    assert {request.tags["accelbench/model_commit"] for request in requests} == {commit}
    assert {request.tags["trigger_ref"] for request in requests} == {f"Qwen/Qwen3-8B@{commit}"}


def test_one_source_that_is_down_does_not_concern_the_other_sensors(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    with Running(Sources(down=True)) as dead:
        watching.setenv("ACCELBENCH_WATCH__PYPI_URL", dead.url)
        vllm, model = Ticks(VLLM, instance), Ticks(MODEL, instance)
        assert vllm() == []
        assert vllm.cursor is None
        model()
        sources.commits["Qwen/Qwen3-8B"] = "feed5eed" * 5
        assert len(model()) == 4


def test_the_caps_of_the_month_hold_over_all_sensors(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_MONTH", "6")
    vllm, model = Ticks(VLLM, instance), Ticks(MODEL, instance)
    vllm(), model()
    sources.release("0.34.0")
    sources.commits["Qwen/Qwen3-8B"] = "feed5eed" * 5
    for ticks, expected in ((vllm, 4), (model, 2), (vllm, 0), (model, 0)):
        requests = ticks()
        assert len(requests) == expected
        for request in requests:  # as the daemon does
            instance.add_run(dg.DagsterRun(job_name="__ASSET_JOB", tags=dict(request.tags)))
    spent = spent_this_month(instance, datetime.now(UTC))
    assert spent == Spent(6, sum((Decimal(r.tags[USD_TAG]) for r in [*vllm.asked, *model.asked]), Decimal(0)))
    assert spent_this_month(instance, datetime.now(UTC) + timedelta(days=40)) == Spent()
    vllm.cursor = None
    sources.release("0.35.0")
    vllm(), vllm()
    assert len(vllm.asked) == 4, "a lost cursor forgets no money"


def test_money_caps_hold_and_a_cell_too_dear_waits(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__MAX_USD_PER_MONTH", "9.50")
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_TICK", "50")
    tick = Ticks(VLLM, instance)
    tick()
    sources.release("0.34.0")
    requests = tick()
    assert requests
    assert sum(Decimal(request.tags[USD_TAG]) for request in requests) <= Decimal("9.50")
    assert tick() == []
    assert "waits: more than is left of 9.5" in (tick.skipped or "")


def test_a_dry_run_is_the_default_and_adds_and_asks_for_nothing(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.delenv("ACCELBENCH_WATCH__DRY_RUN")
    tick = Ticks(VLLM, instance)
    tick()
    noted = tick.state
    sources.release("0.34.0")
    for _ in range(2):
        assert tick() == []
        assert "would be asked for (dry run)" in (tick.skipped or "")
    assert tick.state == noted
    assert tick.added == []
    assert lake().cells() == []
    watching.setenv("ACCELBENCH_WATCH__DRY_RUN", "false")
    assert len(tick()) == 4, "what a dry run announced is still there for the real one"


def test_without_a_suite_nothing_is_looked_at(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.delenv("ACCELBENCH_WATCH__SUITES")
    for name in (VLLM, NEURON, MODEL):
        tick = Ticks(name, instance)
        assert tick() == []
        assert "names no suite" in (tick.skipped or "")
    assert sources.asked == []


def test_a_suite_that_does_not_exist_fails_the_tick(
    instance: dg.DagsterInstance, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__SUITES", '["katalog"]')
    with pytest.raises(UsageError, match=r"watch\.suites: 'katalog'"):
        Ticks(VLLM, instance)()


def test_between_two_looks_passes_what_the_setting_says(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    tick = Ticks(VLLM, instance)
    tick()
    asked, cursor = len(sources.asked), tick.cursor
    assert tick(wait=False) == []
    assert "next look is due" in (tick.skipped or "")
    assert len(sources.asked) == asked
    assert tick.cursor == cursor
    watching.setenv("ACCELBENCH_WATCH__EVERY_S", "86400")
    tick()
    assert len(sources.asked) == asked


def test_a_damaged_cursor_takes_note_and_starts_nothing(
    instance: dg.DagsterInstance, sources: Sources, capfd: pytest.CaptureFixture[str]
) -> None:
    tick = Ticks(VLLM, instance)
    sources.release("0.34.0")
    tick.cursor = '{"version": 7}'
    assert tick() == []
    assert "version 7" in capfd.readouterr().err
    assert tick() == []
    sources.release("0.35.0")
    assert len(tick()) == 4


def test_a_lake_that_is_down_skips_the_tick(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tick = Ticks(VLLM, instance)
    tick()
    sources.release("0.34.0")
    blocked = tmp_path / "file"
    blocked.write_text("")
    watching.setenv("ACCELBENCH_LAKE", str(blocked / "lake"))
    before = older(tick.cursor)
    assert tick() == []
    assert tick.cursor == before
    assert tick.added == []
    watching.delenv("ACCELBENCH_LAKE")
    assert len(tick()) == 4


def test_no_token_comes_out(
    instance: dg.DagsterInstance, sources: Sources, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    tick = Ticks(MODEL, instance)
    tick()
    sources.commits["Qwen/Qwen3-8B"] = "feed5eed" * 5
    tick()
    assert any(headers.get("authorization") == f"Bearer {CANARY}" for _, _, headers in sources.asked)
    sources.down = True
    tick()
    kept = [
        *capfd.readouterr(),
        str(tick.cursor),
        str(tick.skipped),
        *(str(request) for request in tick.asked),
    ]
    kept += [path.read_text() for path in home.rglob("*") if path.is_file()]
    assert len(kept) > 8
    assert CANARY not in "".join(kept)


def test_the_sensors_run_from_the_start_and_may_ask_for_every_rented_family() -> None:
    for sensor in SENSORS:
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == TICK_S
        targets = sensor.asset_selection.resolve(all_assets()) if sensor.asset_selection else set()
        names = {key.to_user_string() for key in targets}
        assert {"raw_samples_g6e", "run_percentiles_g6e", "raw_samples_trn2"} <= names
        assert not {name for name in names if name.endswith(("_local", "_endpoint"))}
