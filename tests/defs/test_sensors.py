"""The release sensors against real servers: what Dagster is asked for, once, and what it then really launches."""

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget, instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.sensor import execute_sensor_iteration

from accelbench_assets.definitions import all_assets
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.defs.sensors import SENSORS, TICK_S, USD_TAG, spent_this_month
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.releases.cursor import decode, encode
from accelbench_assets.releases.follow import Spent
from accelbench_assets.releases.neuron import NEURON_IMAGE
from accelbench_assets.releases.registry import VLLM_IMAGE
from accelbench_assets.settings import load_settings
from partitions.catalog import load_models
from partitions.cell import families
from tests.releases.sources import Running, Sources

DEFS = dg.Definitions(
    assets=all_assets(),
    sensors=SENSORS,
    resources={"accelbench": AccelBench()},
    executor=dg.in_process_executor,
)
REPOSITORY = DEFS.get_repository_def()
CANARY = "hf_canary0123456789canary"
VLLM, NEURON, MODEL = (sensor.name for sensor in SENSORS)
LAUNCHER = "SyncInMemoryRunLauncher"
IN_THIS_PROCESS = {
    "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    "run_launcher": {"module": "dagster._core.launcher.sync_in_memory_run_launcher", "class": LAUNCHER},
}
NEURON_TAG = "0.13.1-neuronx-py312-sdk2.28.1-ubuntu24.04"


@pytest.fixture
def sources() -> Iterator[Sources]:
    with Running(Sources()) as state:
        state.release("0.32.0", "0.33.0")
        for version in ("0.32.0", "0.33.0", "0.34.0", "0.35.0"):
            state.image(VLLM_IMAGE, f"v{version}")
        state.image(NEURON_IMAGE, "0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04")
        state.commits = {row.model_id: row.commit for row in load_models().values() if row.commit}
        yield state


@pytest.fixture(autouse=True)
def watching(home: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Everything live, generous caps; the environment holds a token that must not come out anywhere."""
    for name in ("HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    for name in ("PYPI_URL", "REGISTRY_URL", "HUB_URL", "NEURON_URL"):
        monkeypatch.setenv(f"ACCELBENCH_WATCH__{name}", sources.url)
    settings = {
        "WATCH__SUITES": '["catalog"]',
        "WATCH__DRY_RUN": "false",
        "WATCH__MAX_RUNS_PER_TICK": "4",
        "WATCH__MAX_RUNS_PER_MONTH": "1000",
        "WATCH__MAX_USD_PER_MONTH": "100000",
        "BUDGET__MAX_USD_PER_RUN": "500",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"ACCELBENCH_{name}", value)
    return monkeypatch


@pytest.fixture(scope="module")
def storage() -> Iterator[dg.DagsterInstance]:
    """On disk: Dagster checks requested partitions only against an instance that another process could open."""
    with instance_for_test(overrides=IN_THIS_PROCESS) as one:
        yield one


@pytest.fixture
def instance(storage: dg.DagsterInstance) -> dg.DagsterInstance:
    """Empty: no runs, no partitions."""
    storage.wipe()
    for family in families():
        name = f"cells_{family}"
        for key in storage.get_dynamic_partitions(name):
            storage.delete_dynamic_partition(name, key)
    return storage


def lake() -> Lake:
    return Lake.open(load_settings().lake_url)


def older(cursor: str | None) -> str | None:
    """*cursor*, as if its look had been two hours ago."""
    found, _ = decode(cursor)
    return cursor if found is None else encode(replace(found, looked_at=found.looked_at - timedelta(hours=2)))


class Ticks:
    """One sensor ticking: a new context each time, as after a restart; what it asks for is kept."""

    def __init__(self, name: str, instance: dg.DagsterInstance) -> None:
        self.name, self.instance = name, instance
        self.cursor: str | None = None
        self.asked: list[dg.RunRequest] = []
        self.added: list[str] = []
        self.skipped: str | None = None

    def __call__(self, *, wait: bool = True) -> list[dg.RunRequest]:
        context = dg.SensorEvaluationContext(  # as the code server does it
            self.instance.get_ref(),
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=older(self.cursor) if wait else self.cursor,
            log_key=None,
            repository_name=REPOSITORY.name,
            repository_def=REPOSITORY,
            sensor_name=self.name,
            resources=REPOSITORY.get_top_level_resources(),
        )
        with context:
            data = REPOSITORY.get_sensor_def(self.name).evaluate_tick(context)
        self.cursor, self.skipped = data.cursor, data.skip_message
        requests = list(data.run_requests or [])
        for request in data.dynamic_partitions_requests or []:
            self.added += request.partition_keys
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        self.asked += requests
        return requests

    @property
    def state(self) -> Mapping[str, object]:
        cursor, _ = decode(self.cursor)
        assert cursor is not None
        return cursor.subjects


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


def iterate(workspace: WorkspaceProcessContext) -> None:
    """What the daemon does at each of its rounds, with the pauses of all sensors just over."""
    instance = workspace.instance
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        instance.update_instigator_state(
            state.with_data(
                SensorInstigatorData(
                    last_tick_timestamp=(data.last_tick_timestamp or 0) - 7200,
                    last_run_key=data.last_run_key,
                    min_interval=data.min_interval,
                    cursor=older(data.cursor),
                    last_tick_start_timestamp=(data.last_tick_start_timestamp or 0) - 7200,
                    last_sensor_start_timestamp=data.last_sensor_start_timestamp,
                    sensor_type=data.sensor_type,
                )
            )
        )
    for _ in execute_sensor_iteration(workspace, logging.getLogger("daemon"), None, None):
        pass


def test_the_daemon_adds_the_partition_and_launches_the_run_once(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_TICK", "2")
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_MONTH", "2")
    place = LoadableTargetOrigin(executable_path=sys.executable, module_name=__name__, attribute="DEFS")
    target = InProcessTestWorkspaceLoadTarget(InProcessCodeLocationOrigin(place))
    with WorkspaceProcessContext(instance, target) as workspace:
        iterate(workspace)
        assert instance.get_runs() == []
        sources.release("0.34.0")
        for _ in range(3):
            iterate(workspace)
    check_launched(instance)


def check_launched(instance: dg.DagsterInstance) -> None:
    runs = instance.get_runs()
    assert len(runs) == 2
    for run in runs:
        key = run.tags["dagster/partition"]
        assert "~vllm-0.34.0~" in key
        cell = lake().find_cell(key)
        assert cell is not None
        assert instance.has_dynamic_partition(f"cells_{cell.family}", key)
        assert run.tags["dagster/sensor_name"] == VLLM
        assert {k.to_user_string() for k in run.asset_selection or ()} == {
            f"raw_samples_{cell.family}",
            f"run_percentiles_{cell.family}",
        }
        # It came as far as its launcher, which is switched off here.
        failures = [event.dagster_event for event in instance.all_logs(run.run_id) if event.is_dagster_event]
        texts = " ".join(str(e.step_failure_data) for e in failures if e is not None and e.is_step_failure)
        assert "rented machines" in texts, [
            str(e.dagster_event or e.user_message)[:1500] for e in instance.all_logs(run.run_id)
        ]
