"""The run-status sensors on a real instance: which runs are told of, when nobody is, and what a tick says."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.defs.notifications import SENSORS
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.lake.lake import Lake
from tests.notify.servers import Hook
from tests.support.runs import make_cell, make_record, put_run

CELL = make_cell("llama-3.1-8b-instruct", "g6e.xlarge", "prd.chat@1", "vllm")
CELLS = dg.DynamicPartitionsDefinition(name="cells_g6e")
SECRET = "/services/T0/B0/canary7f3a"


class Attempt(dg.Config):
    run_id: str = ""


@dg.asset(name="raw_samples_g6e", partitions_def=CELLS)
def samples(context: dg.AssetExecutionContext, config: Attempt) -> dg.MaterializeResult:  # type: ignore[type-arg]
    if "fail" in context.run.tags:
        raise dg.Failure(description=f"The node is gone; {context.run.tags['fail']}", allow_retries=False)
    return dg.MaterializeResult(metadata={"run_id": context.run.tags["attempt"]})


@dg.asset
def other() -> None:
    pass


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("cells_g6e", [CELL.key_text])
        yield instance


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.open((home / "lake").as_uri())


def materialize(instance: dg.DagsterInstance, *, run_id: str = "", **tags: str) -> str:
    """A run of the benchmark asset, as the command line starts one; its id."""
    return dg.materialize(
        [samples],
        partition_key=CELL.key_text,
        instance=instance,
        tags=tags,
        run_config={"ops": {"raw_samples_g6e": {"config": {"run_id": run_id}}}},
        raise_on_error=False,
    ).run_id


class Ticks:
    """The daemon's part: each sensor from its last cursor."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.resources = {"accelbench": AccelBench()}
        definitions = dg.Definitions(assets=[samples, other], sensors=SENSORS, resources=self.resources)
        self.repository = definitions.get_repository_def()
        self.cursors: dict[str, str | None] = {}
        for sensor in SENSORS:
            self.tick(sensor.name)  # the first tick only notes where the log ends

    def tick(self, name: str) -> str | None:
        """Evaluate one sensor; why it skipped, if it says so."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            repository_def=self.repository,
            sensor_name=name,
            resources=self.resources,
        )
        data = self.repository.get_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        errors = [r.error for r in data.dagster_run_reactions or () if r.error]
        assert errors == []
        return data.skip_message


@pytest.fixture
def webhook(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Hook:
    monkeypatch.setenv("ACCELBENCH_NOTIFY__WEBHOOK_URL", hook.url + SECRET)
    monkeypatch.setenv("ACCELBENCH_NOTIFY__PAGE_URL", "http://dagster")
    return hook


def test_a_success_is_told_once_with_its_record(
    instance: dg.DagsterInstance, lake: Lake, webhook: Hook
) -> None:
    record = put_run(lake, make_record(CELL))
    ticks = Ticks(instance)
    dagster_run = materialize(instance, attempt=record["run_id"])
    assert ticks.tick("notify_success") == f"Run {dagster_run}: webhook: sent."
    ticks.tick("notify_success")
    ticks.tick("notify_failure")
    ticks.tick("notify_canceled")
    (document,) = webhook.documents
    assert document["run_id"] == record["run_id"]
    assert document["status"] == "succeeded"
    assert document["figures"]["output tokens/s"] == 1000.0
    assert document["link"] == f"http://dagster/runs/{dagster_run}"


def test_a_failure_is_told_with_what_its_step_said(
    instance: dg.DagsterInstance, home: Path, webhook: Hook
) -> None:
    ticks = Ticks(instance)
    materialize(instance, fail=f"see {webhook.url}{SECRET}")
    assert "webhook: sent" in str(ticks.tick("notify_failure"))
    (document,) = webhook.documents
    assert document["outcome"] == "failure"
    assert document["cell_key"] == CELL.key_text
    assert "The node is gone" in document["text"]
    assert "canary" not in json.dumps(document)


def test_a_failures_record_is_found_by_the_runs_config(
    instance: dg.DagsterInstance, lake: Lake, webhook: Hook
) -> None:
    record = make_record(CELL, status="infra_lost", failure_code="node_lost", failure_text="gpu-1 went.")
    lake.begin_attempt({**record, "host_fingerprint": "feedc0de", "pid": 1, "lock": "x"})
    assert lake.finish(record)
    ticks = Ticks(instance)
    materialize(instance, fail="x", run_id=record["run_id"])
    ticks.tick("notify_failure")
    (document,) = webhook.documents
    assert (document["status"], document["failure_code"]) == ("infra_lost", "node_lost")
    assert document["run_id"] == record["run_id"]


def test_a_cancelled_run_is_told(instance: dg.DagsterInstance, home: Path, webhook: Hook) -> None:
    ticks = Ticks(instance)
    job = dg.define_asset_job("benchmark", selection=["raw_samples_g6e"])
    resolved = dg.Definitions(assets=[samples], jobs=[job]).resolve_job_def("benchmark")
    run = instance.create_run_for_job(resolved, tags={"dagster/partition": CELL.key_text})
    instance.report_run_canceling(run)
    instance.report_run_canceled(run)
    assert "webhook: sent" in str(ticks.tick("notify_canceled"))
    (document,) = webhook.documents
    assert document["subject"].startswith("AccelBench: cancelled: llama-3.1-8b-instruct on g6e.xlarge")


def test_other_runs_are_none_of_anybodys_business(
    instance: dg.DagsterInstance, home: Path, webhook: Hook
) -> None:
    ticks = Ticks(instance)
    assert dg.materialize([other], instance=instance).success
    assert ticks.tick("notify_success") is None
    assert webhook.requests == []


def test_a_tick_tells_of_one_run_and_the_next_tick_of_the_next(
    instance: dg.DagsterInstance, home: Path, webhook: Hook
) -> None:
    ticks = Ticks(instance)
    runs = [materialize(instance, attempt="0") for _ in range(3)]
    for number, run in enumerate(runs, 1):
        assert run in str(ticks.tick("notify_success"))
        assert len(webhook.documents) == number


def test_without_settings_the_tick_names_them_and_touches_nothing(
    instance: dg.DagsterInstance, home: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks(instance)
    materialize(instance, attempt="0")
    said = str(ticks.tick("notify_success"))
    assert "ACCELBENCH_NOTIFY__WEBHOOK_URL" in said
    assert "notify" in said
    assert not home.exists(), "no lake was opened"
    monkeypatch.setenv("ACCELBENCH_NOTIFY__WEBHOOK_URL", hook.url)
    monkeypatch.setenv("ACCELBENCH_NOTIFY__ON", '["failure"]')
    materialize(instance, attempt="0")
    assert ticks.tick("notify_success") == "Nobody is told: notify.on does not hold success."
    assert hook.requests == []


def test_a_dead_webhook_is_named_in_the_tick_without_its_secret(
    instance: dg.DagsterInstance, home: Path, webhook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.answers = [404]
    ticks = Ticks(instance)
    materialize(instance, attempt="0")
    with caplog.at_level("DEBUG"):
        said = str(ticks.tick("notify_success"))
    assert "answered 404" in said
    assert "canary" not in said + caplog.text
    ticks.tick("notify_success")
    assert len(webhook.requests) == 1, "an event is told once, whatever became of it"


def test_the_sensors_run_by_themselves_and_start_nothing() -> None:
    assert [sensor.name for sensor in SENSORS] == ["notify_success", "notify_failure", "notify_canceled"]
    assert {sensor.default_status for sensor in SENSORS} == {dg.DefaultSensorStatus.RUNNING}
    assert all(not sensor.targets for sensor in SENSORS)
