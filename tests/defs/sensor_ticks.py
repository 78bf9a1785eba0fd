"""The release sensors over small real servers and an empty Dagster instance, and one of them ticking by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test

from accelbench_assets.definitions import all_assets
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.defs.sensors import SENSORS
from accelbench_assets.lake.lake import Lake
from accelbench_assets.releases.cursor import decode, encode
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
