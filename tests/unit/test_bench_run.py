"""One attempt, one record: every way it can end, on a real lake with a launcher that writes samples."""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.record import clean, git_commit, json_safe, new_run_id, run_fields
from accelbench_assets.bench.run import RunFailed, RunRequest, RunVoid, request_timeout_s, run_benchmark
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.errors import DeadlineExceeded, LakeError, LaunchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.base import (
    Endpoint,
    LoadManifest,
    ServerSpec,
)
from accelbench_assets.launch.locks import RunLock
from loadgen.plan import Plan
from loadgen.workloads import custom
from tests.unit.bench_launcher import CELL, WORKLOAD, FakeLauncher


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open((tmp_path / "lake").as_uri())


def request(tmp_path: Path, **other: Any) -> RunRequest:
    given: dict[str, Any] = {
        "cell": CELL,
        "workload": WORKLOAD,
        "model_id": "org/tiny",
        "evidence_level": "demo",
        "run_id": new_run_id(),
        "seed": 1,
        "deadline_s": 60.0,
        "reproduce_command": "accelbench run --model tiny",
        "launcher_name": "local",
        "home": tmp_path / "home",
    }
    return RunRequest(**(given | other))


def run(
    lake: Lake, tmp_path: Path, launcher: FakeLauncher | None = None, **other: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    events: list[tuple[str, str]] = []
    made = launcher or FakeLauncher()
    record = run_benchmark(
        request(tmp_path, **other), made, lake, lambda kind, message, data: events.append((kind, message))
    )
    return record, events


def only_record(lake: Lake) -> dict[str, Any]:
    (record,) = lake.run_records()
    assert lake.open_attempts() == []
    return record


def test_a_good_run_is_committed_with_every_field(lake: Lake, tmp_path: Path) -> None:
    launcher = FakeLauncher()
    record, events = run(lake, tmp_path, launcher, usd_per_hour=3.6, headers={"X-Team": "a"})
    assert set(run_fields()) <= set(record)
    assert record == only_record(lake)
    assert (record["status"], record["origin"], record["hardware"]) == ("succeeded", "measured", "observed")
    assert {r["verdict"] for r in record["validity"].values()} == {"pass"}, record["validity"]
    assert record["validity"]["engine_counters"]["value"] == 0
    assert record["samples_rows"] == 80
    assert record["engine_args"] == {"threads": 1}
    assert "not_a_field" not in record
    assert record["ladder"][1]["load_value"] == 2
    assert 0 < record["run_cost_usd"] < 3.6 * 60 / 3600
    assert record["cost_missing_reason"] is None
    requested, torn_down = (datetime.fromisoformat(record[f]) for f in ("requested_at", "torn_down_at"))
    assert requested < torn_down
    assert launcher.moments == [
        *("facts", "attempt", "serve", "load", "loaded", "alive", "stopped", "check"),
        "let go",
    ]
    assert launcher.plan is not None
    assert launcher.plan.request_timeout_s == 90.0
    assert 0 < launcher.plan.deadline_s <= 55.0
    assert lake.samples(record["run_id"]).num_rows == 80
    assert {kind for kind, _ in events} == {"phase"}
    assert not (tmp_path / "home" / "work" / record["run_id"]).exists()


def test_logs_and_engine_metrics_are_kept_and_scrubbed(lake: Lake, tmp_path: Path) -> None:
    record, _ = run(lake, tmp_path)
    assert {"engine.log", "metrics-before-0.prom", "metrics-after-0.prom"} <= set(
        lake.log_names(record["run_id"])
    )
    log = lake.read_log(record["run_id"], "engine.log")
    assert "loading with key" in log
    assert "verysecret" not in log
    metrics = lake.read_table("engine_metrics").to_pylist()
    assert [m["value"] for m in metrics if m["name"] == "llamacpp:tokens_predicted_total"] == [10.0, 250.0]


def test_no_price_has_a_reason(lake: Lake, tmp_path: Path) -> None:
    record, _ = run(lake, tmp_path)
    assert record["run_cost_usd"] is None
    assert "local-0123abcd" in record["cost_missing_reason"]


def test_summary_is_written_and_the_same_each_time(lake: Lake, tmp_path: Path) -> None:
    record, _ = run(lake, tmp_path)
    summary = summarise_run(lake, record["run_id"])
    assert summary.steps.num_rows == 2
    assert summary.steps["ok"].to_pylist() == [40, 40]
    assert set(summary.steps["verdict"].to_pylist()) == {"pass"}
    assert summary.slo["decision"].to_pylist() == ["pass", "pass"]
    rows = summary.percentiles.to_pylist()
    assert {r["metric"] for r in rows} >= {"ttft", "tpot", "itl", "chunk_gap", "e2e", "send_lag"}
    assert all(r["p50_ci_low"] is None for r in rows)  # a demo has no interval
    assert all(r["p99"] is None and r["p99_gate"] == "needs_n" and r["p99_needs_n"] >= 2000 for r in rows)
    again = summarise_run(lake, record["run_id"])
    assert again.percentiles.equals(summary.percentiles)
    assert lake.read_table("run_percentiles").num_rows == len(rows)


def test_standard_evidence_has_intervals(lake: Lake, tmp_path: Path) -> None:
    from accelbench_assets.bench.summary import summarise

    record, _ = run(lake, tmp_path)
    samples, shards = lake.samples(record["run_id"]), lake.shards(record["run_id"])
    rows = summarise(samples, shards, {**record, "evidence_level": "standard"}).percentiles.to_pylist()
    assert all(r["p50_ci_low"] <= r["p50"] <= r["p50_ci_high"] for r in rows)


def test_an_unknown_or_failed_run_is_not_summarised(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="succeeded"):
        summarise_run(lake, new_run_id())


@pytest.mark.parametrize(
    ("moment", "error", "status", "code"),
    [
        ("serve", LaunchError("Port 1 is taken.", code="port_busy"), "failed", "port_busy"),
        ("serve", LaunchError("It cannot fit.", code="does_not_fit"), "does_not_fit", "does_not_fit"),
        ("serve", DeadlineExceeded("Too late."), "timed_out", "deadline"),
        ("load", LaunchError("The generator died.", code="loadgen_failed"), "failed", "loadgen_failed"),
        ("loaded", OSError(errno.ENOSPC, "No space left on device"), "failed", "disk_full"),
        ("alive", LaunchError("The engine died.", code="crashed"), "failed", "crashed"),
        ("load", ValueError("bug with token=abcdef123456"), "failed", "internal"),
    ],
)
def test_each_failure_leaves_one_record(
    lake: Lake, tmp_path: Path, moment: str, error: Exception, status: str, code: str
) -> None:
    launcher = FakeLauncher({moment: error})
    with pytest.raises(RunFailed) as caught:
        run(lake, tmp_path, launcher)
    record = only_record(lake)
    assert (record["status"], record["failure_code"]) == (status, code)
    assert caught.value.record["run_id"] == record["run_id"]
    assert record["failure_text"]
    assert "abcdef123456" not in record["failure_text"]
    assert record["torn_down_at"] is not None
    if moment != "serve":
        assert launcher.moments[-2:] == ["stopped", "let go"]
        assert "engine.log" in lake.log_names(record["run_id"])
    with pytest.raises(LakeError):
        lake.samples(record["run_id"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_cancelling_is_recorded_and_goes_on(lake: Lake, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(lake, tmp_path, FakeLauncher({"loaded": error}))
    record = only_record(lake)
    assert (record["status"], record["failure_code"]) == ("cancelled", "interrupted")
    assert lake.read_incoming(record["run_id"]).num_rows == 80


def test_a_void_run_keeps_its_samples_unpublished(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(RunVoid) as caught:
        run(lake, tmp_path, FakeLauncher(complete=False))
    record = only_record(lake)
    assert (record["status"], record["failure_code"]) == ("void", "manifest")
    assert record["validity"]["manifest"]["verdict"] == "void"
    assert "the server went away" in str(caught.value)
    assert lake.read_incoming(record["run_id"]).num_rows == 80
    assert lake.read_table("raw_samples").num_rows == 0


def test_all_requests_failed_is_void(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(RunVoid):
        run(lake, tmp_path, FakeLauncher(status="error"))
    assert only_record(lake)["failure_code"] == "error_rate"


def test_altered_samples_fail_the_run(lake: Lake, tmp_path: Path) -> None:
    class Altering(FakeLauncher):
        def load(self, plan: Plan, *args: Any) -> LoadManifest:
            manifest = super().load(plan, *args)
            part = next((tmp_path / "lake").rglob("part-1.parquet"))
            part.write_bytes(part.read_bytes()[:-1] + b"x")
            return manifest

    with pytest.raises(RunFailed, match="SHA-256"):
        run(lake, tmp_path, Altering())
    assert only_record(lake)["failure_code"] == "lake"


class Broken:
    """A lake of which one method fails."""

    def __init__(self, lake: Lake, method: str, error: BaseException, *, after: bool = False) -> None:
        self._lake, self._method, self._error, self._after = lake, method, error, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._lake, name)
        if name != self._method:
            return real

        def broken(*args: Any) -> Any:
            if self._after:
                real(*args)
            raise self._error

        return broken


def test_an_unwritable_lake_starts_nothing(lake: Lake, tmp_path: Path) -> None:
    launcher = FakeLauncher()
    full = LakeError("The disk is full.")
    with pytest.raises(RunFailed, match="disk is full"):
        run(Broken(lake, "check_writable", full), tmp_path, launcher)  # type: ignore[arg-type]
    assert launcher.moments == ["facts"]
    with pytest.raises(LakeError, match="disk is full"):
        run(Broken(lake, "begin_attempt", full), tmp_path, launcher)  # type: ignore[arg-type]
    assert launcher.moments == ["facts", "facts"]


def test_a_record_that_cannot_be_written_leaves_the_attempt_open(lake: Lake, tmp_path: Path) -> None:
    broken = Broken(lake, "finish", LakeError("The disk is full."))
    with pytest.raises(RunFailed, match=r"port.*record could not be written: The disk is full\.") as caught:
        run(broken, tmp_path, FakeLauncher({"load": LaunchError("The port.", code="port_busy")}))  # type: ignore[arg-type]
    run_id = caught.value.record["run_id"]
    assert [a["run_id"] for a in lake.open_attempts()] == [run_id]
    assert (tmp_path / "home" / "work" / run_id / "engine.log").exists()
    attempt = lake.open_attempts()[0]
    assert Path(attempt["lock"]).parent == tmp_path / "home" / "locks"
    (reaped,) = lake.reap(attempt["host_fingerprint"], lambda a: False)
    assert reaped["status"] == only_record(lake)["status"] == "infra_lost"


def test_a_commit_whose_reply_was_lost_counts(lake: Lake, tmp_path: Path) -> None:
    broken = Broken(lake, "commit", LakeError("The connection was lost."), after=True)
    record, _ = run(broken, tmp_path)  # type: ignore[arg-type]
    assert record["status"] == only_record(lake)["status"] == "succeeded"


def test_a_commit_that_failed_is_recorded_as_failed(lake: Lake, tmp_path: Path) -> None:
    broken = Broken(lake, "commit", LakeError("The disk is full."))
    with pytest.raises(RunFailed, match="disk is full"):
        run(broken, tmp_path)  # type: ignore[arg-type]
    assert only_record(lake)["failure_code"] == "lake"
    assert lake.read_table("run_steps").num_rows == 0


def test_an_interrupt_after_the_commit_does_not_unmake_it(lake: Lake, tmp_path: Path) -> None:
    broken = Broken(lake, "commit", KeyboardInterrupt(), after=True)
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path)  # type: ignore[arg-type]
    assert only_record(lake)["status"] == "succeeded"


def test_an_attempt_announced_by_the_caller_is_taken_over(lake: Lake, tmp_path: Path) -> None:
    asked = request(tmp_path)
    from accelbench_assets.bench.record import new_attempt

    lake.begin_attempt({**new_attempt(asked), "host_fingerprint": "h", "pid": 1, "lock": "x"})
    record = run_benchmark(asked, FakeLauncher(), lake, lambda *_: None)
    assert record["status"] == only_record(lake)["status"] == "succeeded"
    with pytest.raises(LakeError, match="begun before"):
        run_benchmark(asked, FakeLauncher(), lake, lambda *_: None)


def test_a_run_worked_on_elsewhere_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    asked = request(tmp_path)
    with RunLock(asked.home, asked.run_id), pytest.raises(LaunchError, match="another process"):
        run_benchmark(asked, FakeLauncher(), lake, lambda *_: None)
    assert lake.run_records() == []


def test_a_secret_header_reaches_neither_record_nor_logs(lake: Lake, tmp_path: Path) -> None:
    class Talking(FakeLauncher):
        def load(
            self, plan: Plan, endpoint: Endpoint, out: str, spec: ServerSpec, *args: Any
        ) -> LoadManifest:
            (spec.work_dir / "loadgen.log").write_text(plan.to_json())
            raise LaunchError("The server refused key-of-ours-42.", code="auth")

    with pytest.raises(RunFailed) as caught:
        run(lake, tmp_path, Talking(), headers={"X-Api-Key": "key-of-ours-42"})
    record = only_record(lake)
    kept = json.dumps(record) + "".join(
        lake.read_log(record["run_id"], n) for n in lake.log_names(record["run_id"])
    )
    assert "key-of-ours-42" not in kept
    assert "key-of-ours-42" not in str(caught.value)
    assert record["failure_code"] == "auth"


@pytest.mark.parametrize(
    "word", ["ollama", "llamacpp", "org/tiny", "local-0123abcd", "measured", "succeeded"]
)
def test_a_secret_that_is_a_word_does_not_rewrite_what_a_run_is(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", word)
    cell = dataclasses.replace(CELL, engine="ollama") if word == "ollama" else CELL
    record, _ = run(lake, tmp_path, cell=cell, api_key_env="OPENAI_API_KEY")
    assert record == only_record(lake)
    told = {
        name: record[name] for name in ("cell_id", "cell_key", "partition_key", "engine", "instance_type")
    }
    assert told == {
        "cell_id": cell.cell_id,
        "cell_key": cell.key_text,
        "partition_key": cell.key_text,
        "engine": cell.engine,
        "instance_type": cell.instance,
    }
    assert (record["model_id"], record["status"], record["origin"]) == ("org/tiny", "succeeded", "measured")
    assert record["workload_id"] == WORKLOAD.id
    free = ("reproduce_command", "validity")
    assert "****" not in json.dumps({name: value for name, value in record.items() if name not in free})
    assert {rule["verdict"] for rule in record["validity"].values()} == {"pass"}
    assert lake.samples(record["run_id"]).num_rows == 80


def test_secrets_are_scrubbed_where_they_can_stand() -> None:
    key = "opaque-value-0452"
    kept = clean(
        {
            "failure_text": f"refused {key}",
            "engine_args": {"extra": [f"--key={key}"], "threads": 1},
            "env": {"LLAMA_ARG": key},
            "reproduce_command": f"accelbench run --x {key}",
            "validity": {"errors": {"verdict": "pass", "value": 0.0, "limit": None, "text": f"said {key}"}},
            "source_url": f"https://me:{key}@host:8443/v1",
            "engine": key,
        },
        [key],
    )
    assert kept.pop("engine") == key  # an identity is never rewritten
    assert key not in json.dumps(kept)
    assert kept["engine_args"]["threads"] == 1
    assert kept["validity"]["errors"]["verdict"] == "pass"
    assert kept["source_url"] == "https://host:8443/v1"


def test_truth_server_is_never_taken_for_an_engine(lake: Lake, tmp_path: Path) -> None:
    truth = dataclasses.replace(CELL, engine="truth")
    with pytest.raises(RunFailed):
        run(lake, tmp_path, FakeLauncher({"serve": LaunchError("No.", code="unreachable")}), cell=truth)
    assert only_record(lake)["origin"] == "simulated"


def test_small_things() -> None:
    first, began = new_run_id(), time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == began:  # ids are in order from one millisecond to the next
        pass
    assert first < new_run_id()
    assert json_safe({"a": float("inf"), "b": (Path("x"), 1)}) == {"a": None, "b": ["x", 1]}
    assert request_timeout_s(custom(concurrency=1)) == 60.0
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
