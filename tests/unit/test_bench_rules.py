"""The rules about the client's ceiling and clock, warm-up, prefix cache and canaries, on both sides of each limit."""

from typing import Any

import pytest

from accelbench_assets.bench.frame import Frame, frames, step_windows
from accelbench_assets.bench.rules import answers, client, evidence, load
from tests.unit.bench_samples import row, shard, table


def manifest(**figures: Any) -> dict[str, Any]:
    made = shard(windows_s=[10.0], scheduled=[40])
    made["client"] |= figures
    return made


def null_server(events: float, own_ms: float = 0.3) -> dict[str, Any]:
    return {"events_per_s": events, "own_latency_p99_ms": own_ms, "requests_per_s": 100.0}


@pytest.mark.parametrize(
    ("events", "own_ms", "demo", "expected"),
    [
        (3000.0, 1.0, False, "pass"),
        (2999.0, 1.0, False, "void"),
        (2999.0, 1.0, True, "warn"),
        (3000.0, 1.01, False, "warn"),
    ],
)
def test_the_client_must_reach_three_times_the_runs_event_rate(
    events: float, own_ms: float, demo: bool, expected: str
) -> None:
    found = client.ceiling(
        [manifest(null_server=null_server(events, own_ms), events_per_s_max=1000)], demo=demo
    )
    assert found["verdict"] == expected
    assert f"{events:,.0f}" in found["text"]


def test_the_slowest_shard_decides_and_a_missing_calibration_is_said() -> None:
    fast = manifest(null_server=null_server(50_000.0), events_per_s_max=1000)
    slow = manifest(null_server=null_server(2_000.0), events_per_s_max=1000)
    assert client.ceiling([fast, slow], demo=False)["value"] == pytest.approx(2.0)
    missing = manifest(null_server=None, null_server_reason="the deadline was near")
    assert client.ceiling([missing], demo=False)["verdict"] == "warn"
    assert "the deadline was near" in client.ceiling([missing], demo=False)["text"]
    assert client.ceiling([missing], demo=True)["verdict"] == "pass"


def test_stamp_lag_and_clock_steps() -> None:
    assert client.stamps([manifest(stamp_lag_p99_ms=4.9)])["verdict"] == "pass"
    assert client.stamps([manifest(stamp_lag_p99_ms=5.1)])["verdict"] == "warn"
    unknown = client.stamps([manifest(stamp_lag_p99_ms=None)])
    assert (unknown["verdict"], unknown["value"]) == ("pass", None)
    assert client.clock_steps([manifest(clock_jumps=1, clock_fallbacks=0)])["verdict"] == "pass"
    stepped = client.clock_steps([manifest(clock_jumps=1, clock_fallbacks=7)])
    assert (stepped["verdict"], stepped["value"]) == ("warn", 7)


@pytest.mark.parametrize(
    ("status", "level", "label", "searched", "expected"),
    [
        ("warm", "standard", None, False, "pass"),
        ("time", "standard", None, False, "pass"),
        ("not_warm", "smoke", None, False, "warn"),
        ("not_warm", "standard", None, False, "void"),
        ("not_warm", "standard", "overloaded", False, "warn"),  # beyond what it carries nothing settles
        ("not_warm", "standard", "unstable", False, "warn"),
        ("not_warm", "standard", None, True, "warn"),  # a search goes beyond the knee on purpose
    ],
)
def test_a_warm_up_that_never_settled(
    status: str, level: str, label: str | None, searched: bool, expected: str
) -> None:
    made = manifest()
    made["steps"][0]["warmup"] = {"rule": "state", "status": status, "seconds": 600.0, "figures": {}}
    made["capacity"] = {"status": "confirmed"} if searched else None
    step = {"step_index": 0, "load_kind": "closed", "load_value": 1.0, "saturation_label": label}
    found = evidence.warm_up([made], [step], level)
    assert found["verdict"] == expected
    if status == "not_warm":
        assert "600 s" in found["text"]


def one_step(rows: list[dict[str, Any]]) -> list[Frame]:
    return frames(table(rows), step_windows([manifest()]))


@pytest.mark.parametrize(
    ("cached", "designed", "template", "expected"),
    [
        (0, 0.0, 0, "pass"),
        (1, 0.0, 0, "pass"),
        (2, 0.0, 0, "void"),
        (12, 0.0, 12, "pass"),  # the chat template is in every server's cache
        (80, 0.8, 0, "pass"),
        (84, 0.8, 0, "pass"),
        (90, 0.8, 0, "void"),
        (70, 0.8, 0, "void"),
    ],
)
def test_the_prefix_cache_must_be_as_designed(
    cached: int, designed: float, template: int, expected: str
) -> None:
    rows = [
        row(at_s=0.2 * i, seq=i, input_tokens=100 + template, cached_input_tokens=cached) for i in range(20)
    ]
    found = answers.prefix_cache(one_step(rows), designed, template)
    assert found is not None
    assert found["verdict"] == expected, found


def test_an_unknown_cache_is_shown_as_unknown_and_an_undesigned_one_has_no_rule() -> None:
    rows = [row(at_s=0.2 * i, seq=i) for i in range(5)]
    found = answers.prefix_cache(one_step(rows), 0.0, 0)
    assert found is not None
    assert (found["verdict"], found["value"]) == ("warn", None)
    assert answers.prefix_cache(one_step(rows), None, 0) is None


def canary(score: float, *hashes: str) -> dict[str, Any]:
    return {"set": "facts@1", "n": len(hashes), "score": score, "answer_hashes": list(hashes)}


def test_canaries_against_the_reference_run() -> None:
    assert answers.canary(None, None) is None
    first = answers.canary(canary(0.8, "a", "b"), None)
    assert first is not None
    assert first["verdict"] == "pass"
    assert "no earlier run" in first["text"]
    same = answers.canary(canary(0.795, "a", "c"), canary(0.8, "a", "b"))
    assert same is not None
    assert same["verdict"] == "pass"
    assert "50% of the answers are the same" in same["text"]
    many = [f"h{k}" for k in range(64)]
    one_off = answers.canary(canary(63 / 64, *many), canary(1.0, *many))
    assert one_off is not None
    assert one_off["verdict"] == "pass", "one greedy answer of 64 may tip over"
    worse = answers.canary(canary(62 / 64, *many), canary(1.0, *many))
    assert worse is not None
    assert worse["verdict"] == "void"


def test_a_router_under_test_may_spread_as_it_likes() -> None:
    rows = [row(at_s=0.2 * i, seq=i, replica_id="b:1" if i < 4 else "a:1") for i in range(40)]
    assert (load.replica_skew(one_step(rows)) or {})["verdict"] == "void"
    routed = load.replica_skew(one_step(rows), router="queue-aware")
    assert routed is not None
    assert routed["verdict"] == "pass"
    assert "queue-aware" in routed["text"]


def test_what_the_servers_headers_say_is_shown_beside_ours() -> None:
    from accelbench_assets.telemetry.headers import header_rule

    assert header_rule(one_step([row(at_s=0.1)])) == {}
    rows = [row(at_s=0.2 * i, seq=i, server_ttft_ms=40.0, server_usd_per_1k_tokens=0.002) for i in range(5)]
    found = header_rule(one_step(rows))["server_headers"]
    assert found["verdict"] == "pass"
    assert "TTFT 40 ms against our 50" in found["text"]
    assert "price 0.002 USD" in found["text"]
