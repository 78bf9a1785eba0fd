"""Every validity rule on both sides of its limit, and the engine's counters against ours."""

from datetime import UTC, datetime
from typing import Any

import pytest

from accelbench_assets.bench.engine_counters import metric_rows, reconcile
from accelbench_assets.bench.frame import frames, step_windows
from accelbench_assets.bench.metrics import step_row
from accelbench_assets.bench.validity import first_void, judge, overall, required_window_s
from tests.unit.bench_samples import row, shard, table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def good_rows(n: int = 40, **other: Any) -> list[dict[str, Any]]:
    return [row(at_s=0.2 * i, seq=i, **other) for i in range(n)]


def rules(
    rows: list[dict[str, Any]] | None = None,
    manifest: dict[str, Any] | None = None,
    *,
    level: str = "standard",
    planned: int = 1,
    required_s: float = 10.0,
) -> dict[str, Any]:
    rows = good_rows() if rows is None else rows
    scheduled = sum(r["phase"] == "measure" and r["step_index"] == 0 for r in rows)
    manifest = manifest or shard(windows_s=[10.0], scheduled=[scheduled])
    found = frames(table(rows), step_windows([manifest]))
    return judge(
        found,
        [step_row(f) for f in found],
        [manifest],
        evidence_level=level,
        planned_steps=planned,
        fixed_output_length=True,
        window_required_s=required_s,
    )


def open_shard(rows: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = shard(windows_s=[10.0], scheduled=[len(rows)])
    manifest["steps"][0] |= {"load_kind": "open", "load_value": 5.0, "arrival": "poisson"}
    return manifest


def test_a_good_run_passes_every_rule() -> None:
    found = rules()
    assert {r["verdict"] for r in found.values()} == {"pass"}, found
    assert overall(found) == "pass"
    assert first_void(found) is None
    assert all(r["text"].endswith(".") for r in found.values())


@pytest.mark.parametrize(
    ("failed", "expected"), [(0, "pass"), (1, "pass"), (2, "warn"), (8, "warn"), (150, "void")]
)
def test_error_rate(failed: int, expected: str) -> None:
    rows = [row(at_s=0.05 * i, seq=i, status="error" if i < failed else "ok") for i in range(150)]
    found = rules(rows)["error_rate"]
    assert found["verdict"] == expected
    assert ("overloaded" in found["text"]) == (failed == 8)


def test_no_samples_at_all_void() -> None:
    found = rules([], shard(windows_s=[], scheduled=[]))
    assert found["error_rate"]["verdict"] == found["manifest"]["verdict"] == "void"


def test_an_incomplete_manifest_and_a_missing_step_void() -> None:
    broken = shard(windows_s=[10.0], scheduled=[40], complete=False, reason="the server went away")
    found = rules(manifest=broken)
    assert first_void(found) == "manifest"
    assert "the server went away" in found["manifest"]["text"]
    assert rules(planned=2)["manifest"]["verdict"] == "void"


def test_a_request_without_a_sample_voids() -> None:
    assert rules(manifest=shard(windows_s=[10.0], scheduled=[41]))["manifest"] == {
        "verdict": "void",
        "value": 1,
        "limit": 0,
        "text": "1 requests scheduled in the window left no sample.",
    }


@pytest.mark.parametrize(
    ("lag_ms", "level", "expected"),
    [
        (0.9, "standard", "pass"),
        (1.2, "standard", "void"),
        (1.2, "demo", "warn"),
        (9.0, "demo", "warn"),
        (11.0, "demo", "void"),
    ],
)
def test_dispatch_delay_of_an_open_loop(lag_ms: float, level: str, expected: str) -> None:
    rows = good_rows(lag_ms=lag_ms)
    assert rules(rows, open_shard(rows), level=level)["dispatch_delay"]["verdict"] == expected


def test_dispatch_delay_may_be_one_percent_of_ttft() -> None:
    rows = good_rows(lag_ms=3.0, chunks_ms=(400.0, 410.0))
    found = rules(rows, open_shard(rows))["dispatch_delay"]
    assert (found["verdict"], found["limit"]) == ("pass", pytest.approx(4.03))


def test_a_client_that_sends_less_than_offered_voids() -> None:
    rows = good_rows(100)[:50]
    late = [{**r, "sent_at": r["sent_at"] + 30 * 10**9} for r in good_rows(4)]
    assert rules(rows, open_shard(rows))["achieved_rate"]["verdict"] == "pass"
    assert rules(rows + late, open_shard(rows + late))["achieved_rate"]["verdict"] == "void"


@pytest.mark.parametrize(
    ("key", "good", "bad", "rule"),
    [
        ("loop_lag_p99_ms", 5.0, 5.1, "loop_lag_p99"),
        ("loop_lag_max_ms", 50.0, 51.0, "loop_lag_max"),
        ("cpu_share_max", 0.7, 0.71, "client_cpu"),
    ],
)
def test_client_limits_void_but_only_warn_in_a_demo(key: str, good: float, bad: float, rule: str) -> None:
    def judged(value: float | None, level: str = "standard") -> str:
        manifest = shard(windows_s=[10.0], scheduled=[40])
        manifest["client"][key] = value
        return str(rules(manifest=manifest, level=level)[rule]["verdict"])

    assert [judged(good), judged(bad), judged(bad, "smoke"), judged(bad, "demo")] == [
        "pass",
        "void",
        "void",
        "warn",
    ]
    assert judged(None) == "warn"


def test_length_fidelity_sees_answers_the_generator_failed_for_it() -> None:
    """AT-17: 3 % of the answers stop early."""
    rows = [row(at_s=0.09 * i, seq=i) for i in range(100)]
    for i in (10, 40, 70):
        rows[i] |= {"output_tokens": 2, "status": "incomplete", "error_class": "wrong_length"}
    found = rules(rows)["length_fidelity"]
    assert (found["verdict"], found["value"]) == ("void", pytest.approx(0.03))


def test_token_counts_and_buffering_warn() -> None:
    rows = good_rows()
    rows[0]["output_tokens"] = rows[0]["output_tokens_requested"] = 9
    assert rules(rows)["token_count"]["verdict"] == "warn"
    shared = good_rows(shared_chunks=1)
    assert rules(shared)["transport_buffering"]["verdict"] == "warn"
    assert "transport-buffered" in rules(shared)["transport_buffering"]["text"]


def test_evidence_must_match_its_level() -> None:
    assert rules(required_s=120.0)["evidence"]["verdict"] == "void"
    assert rules(good_rows(19))["evidence"]["verdict"] == "warn"
    assert required_window_s("demo", "demo.chat@1", 5) == 0
    assert required_window_s("smoke", "custom.00000000@1", 5) == 120
    assert required_window_s("standard", "prefill.8k@1", 120) == 120
    assert required_window_s("standard", "mine@1", 120) == 300
    assert required_window_s("standard", "custom.00000000@1", 120) == 300
    assert required_window_s("publication", "prefill.8k@1", 120) == 600


def test_clock_drift_and_replica_skew_warn() -> None:
    assert (
        rules(manifest=shard(windows_s=[10.0], scheduled=[40], drift_ms_per_min=-1.5))["clock_drift"][
            "verdict"
        ]
        == "warn"
    )
    rows = good_rows()
    assert "replica_skew" not in rules(rows)
    for share, expected in ((8, "void"), (17, "warn"), (20, "pass")):
        for r in rows[:share]:
            r["replica_id"] = "b:1"
        assert rules(rows)["replica_skew"]["verdict"] == expected


def page(prompt: float, output: float, started: float | None = None) -> dict[str, str]:
    text = f'# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{{model_name="m"}} {prompt}\n'
    text += (
        f'# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{{model_name="m"}} {output}\n'
    )
    return {"a:1": text + (f"process_start_time_seconds {started}\n" if started else "")}


def reconciled(before: dict[str, str], after: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = metric_rows("run", NOW, before), metric_rows("run", NOW, after)
    return reconcile(first, last, table(rows))


def test_counters_that_agree_pass_and_others_warn() -> None:
    rows = good_rows()  # 40 requests of 16 tokens in and 3 out
    assert reconciled(page(100, 10), page(740, 130), rows)["engine_counters"]["verdict"] == "pass"
    found = reconciled(page(100, 10), page(740, 190), rows)["engine_counters"]
    assert found["verdict"] == "warn"
    assert "180" in found["text"]
    assert "120" in found["text"]


def test_cached_prompt_tokens_and_failed_requests_are_allowed_for() -> None:
    rows = good_rows(cached_input_tokens=8)
    assert reconciled(page(0, 0), page(320, 120), rows)["engine_counters"]["verdict"] == "pass"
    rows = [*good_rows(), row(at_s=9, seq=99, status="timeout", chunks_ms=())]
    assert reconciled(page(0, 0), page(700, 160), rows)["engine_counters"]["verdict"] == "pass"
    assert reconciled(page(0, 0), page(700, 100), rows)["engine_counters"]["verdict"] == "warn"


def test_a_restarted_engine_voids() -> None:
    rows = good_rows()
    assert reconciled(page(0, 0, 5.0), page(640, 120, 9.0), rows)["engine_restart"]["verdict"] == "void"
    assert reconciled(page(0, 0, 5.0), page(640, 120, 5.0), rows)["engine_restart"]["verdict"] == "pass"
    assert reconciled(page(900, 500), page(640, 120), rows)["engine_restart"]["verdict"] == "void"


def test_pages_without_known_counters_make_no_rule_and_broken_ones_no_error() -> None:
    assert reconciled({}, {}, good_rows()) == {}
    assert reconciled({"a:1": "up 1\n"}, {"a:1": "up 1\n"}, good_rows()) == {}
    assert metric_rows("run", NOW, {"a:1": 'up 1\n<html>{"'}) is not None


def test_a_step_in_whose_window_nothing_was_sent_is_void() -> None:
    rows = good_rows()
    for r in rows:
        r["phase"] = "warmup"
    assert rules(rows)["evidence"]["verdict"] == "void"


def test_a_drifting_machine_is_told_apart_from_noise() -> None:
    """S2: two regimes of speed in one window leave few independent requests."""
    steady = [row(at_s=0.09 * i, seq=i) for i in range(100)]
    assert rules(steady)["independence"]["verdict"] == "pass"
    for r in steady[50:]:
        r["e2e_ms"] *= 1.7
    drifted = rules(steady)["independence"]
    assert drifted["verdict"] == "warn"
    assert drifted["value"] < 20


@pytest.mark.parametrize(
    ("seconds", "demo", "said"),
    [(None, False, None), (0.05, False, "pass"), (0.8, False, "void"), (0.8, True, "warn")],
)
def test_a_generator_that_was_held_back_is_no_generator(
    seconds: float | None, demo: bool, said: str | None
) -> None:
    from accelbench_assets.bench.rules.client import throttled

    rules = throttled([{"client": {"cpu_throttled_s": seconds}}, {"client": {}}], demo=demo)
    assert {name: rule["verdict"] for name, rule in rules.items()} == (
        {} if said is None else {"client_throttled": said}
    )
