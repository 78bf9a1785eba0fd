"""The peers' benchmark judges rightly: its arithmetic on a made log, its verdicts on made rows, its command line.
No peer and no load here."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.loadgen_peers import arithmetic, processes, report, verdict
from tests.benchmarks.loadgen_peers.arithmetic import Outcome, ServerLog, Timed
from tests.benchmarks.loadgen_peers.clients import Load
from tests.benchmarks.loadgen_peers.execute import Row, fault_figures, hot
from tests.benchmarks.loadgen_peers.floor import drive
from tests.benchmarks.loadgen_peers.measure import Sample, Usage
from tests.benchmarks.loadgen_peers.peers import PEERS
from tests.benchmarks.loadgen_peers.scenarios import FLOOR, LEVELS, OURS, REQUEST_MS, plan

MS = 1_000_000
ROOT = Path(__file__).parents[2]


def line(
    number: int, received_ms: float, sends_ms: list[float], fault: str | None = None
) -> dict[str, object]:
    return {
        "request_id": f"r{number}",
        "received_ns": int((received_ms + 0.3) * MS),  # when the process got to it
        "kernel_received_ns": int(received_ms * MS),
        "sends_ns": [int(at * MS) for at in sends_ms],
        "last_send_ns": int((sends_ms[-1] if sends_ms else received_ms) * MS),
        "tokens": len(sends_ms),
        "fault": fault,
    }


def made(tmp_path: Path, *lines: dict[str, object], share: float | None = 0.25) -> ServerLog:
    path = tmp_path / "truth.jsonl"
    last = {"server": {"cpu_s": 1.0, "wall_s": 4.0, "core_share_max": share}}
    path.write_text("\n".join(json.dumps(row) for row in (*lines, last)))
    return arithmetic.read_log(path)


def test_errors_of_matched_requests_are_taken_request_by_request(tmp_path: Path) -> None:
    log = made(
        tmp_path,
        line(2, 1000, [1050, 1060, 1070]),
        line(1, 0, [50, 60, 70]),
        line(3, 2000, [2050, 2060, 2070]),
    )
    assert [one.request_id for one in log.requests] == ["r1", "r2", "r3"]
    assert log.core_share_max == 0.25
    requests = [
        Timed("r1", -1 * MS, [50 * MS, 60 * MS, 70 * MS]),  # sent 1 ms before it was received: +1, +1
        Timed("r2", 1000 * MS, [1049 * MS, 1060 * MS, 1073 * MS]),  # -1, +3; gaps off by +1 and +3
        Timed("r3", 2000 * MS, [2050 * MS]),  # other chunks than were sent: left to the counts
        Timed("r9", 0, [1, 2, 3]),  # unknown to the server
    ]
    figures = arithmetic.matched(log, requests)
    assert figures["matched"] == 2
    assert figures["ttft_error_p50_ms"] == pytest.approx(1.0)
    assert figures["e2e_error_p50_ms"] == pytest.approx(2.0)
    assert figures["e2e_error_p99_ms"] == pytest.approx(1 + 0.99 * 2)
    assert figures["gap_error_p50_ms"] == pytest.approx(0.5)
    assert figures["stamp_error_p99_ms"] == pytest.approx(0 + 3 * 0.95)


def test_errors_of_distributions_are_differences_of_percentiles(tmp_path: Path) -> None:
    log = made(
        tmp_path,
        *(line(number, 1000 * number, [1000 * number + 50, 1000 * number + 60]) for number in range(5)),
        line(9, 9000, [9500], fault="reset"),
    )
    found = arithmetic.distribution(log, {"ttft": (45.0, 150.0), "gap": (10.0, 12.5), "tpot": (1.0, 1.0)})
    expected = {
        "ttft_error_p50_ms": -5.0,
        "ttft_error_p99_ms": 100.0,
        "gap_error_p50_ms": 0.0,
        "gap_error_p99_ms": 2.5,
    }
    assert found == pytest.approx(expected)


def test_load_kept_is_the_ideal_span_over_the_real_one(tmp_path: Path) -> None:
    sends = [50 + 10 * token for token in range(64)]
    rows = [
        line(10 * user + wave, 850 * wave, [850 * wave + at for at in sends])
        for user in range(4)
        for wave in range(3)
    ]
    log = made(tmp_path, *rows)
    assert REQUEST_MS == 680
    span_ms = 2 * 850 + 680
    assert arithmetic.load_kept(log.requests, 4, REQUEST_MS) == pytest.approx(3 * 680 / span_ms)
    assert arithmetic.throughput(log.requests)["tokens_per_s"] == pytest.approx(12 * 64 / (span_ms / 1e3))


def test_arrivals_and_deviations(tmp_path: Path) -> None:
    log = made(tmp_path, *(line(number, 10 * number + (number % 2), [1e6]) for number in range(1001)))
    found = arithmetic.arrivals(log.requests, 100.0)
    assert found["rate_per_s"] == pytest.approx(100.0)
    assert found["drift_p99_ms"] == pytest.approx(1.0)
    assert found["gap_cv"] == pytest.approx(0.1)
    late = arithmetic.deviations(log, [Timed("r2", 0, [], 20 * MS), Timed("r3", 0, [], 28 * MS)])
    assert late["deviation_p50_ms"] == pytest.approx(1.5)


def test_exponential_gaps_are_told_from_even_ones() -> None:
    draw = random.Random(5)
    at = list(itertools.accumulate(int(draw.expovariate(100.0) * 1e9) for _ in range(2000)))
    assert arithmetic.exponential_p(at) > 0.01
    assert arithmetic.exponential_p(range(0, 2000 * 10 * MS, 10 * MS)) < 1e-6


def test_processor_time_between_two_moments_is_what_was_used_there(tmp_path: Path) -> None:
    second = 1000 * MS
    usage = Usage(0, 4 * second)
    usage.samples = [
        Sample(at * second, cpu, 2**20 * at, None, 1) for at, cpu in ((1, 1.0), (2, 1.5), (4, 3.5))
    ]
    assert usage.cpu_between(int(0.5 * second), 3 * second) == pytest.approx(2.5 - 0.5)
    assert usage.core_share_max(0, 4 * second) == pytest.approx(1.0)
    assert usage.core_share_max(1 * second, 2 * second) == pytest.approx(0.5)
    assert usage.rss_at(int(1.5 * second)) == 2**21
    log = made(tmp_path, line(1, 1000, [1500.0, 2000.0]))
    assert hot(log.requests, usage)["cpu_s_per_mtok"] == pytest.approx(0.5 / 2 * 1e6)


def test_faults_are_compared_one_by_one(tmp_path: Path) -> None:
    log = made(
        tmp_path,
        line(1, 0, [50, 60]),
        line(2, 0, [], fault="500"),
        line(3, 0, [50], fault="reset"),
        line(4, 0, [], fault="hang"),
        line(5, 0, [50, 60]),
    )
    outcome = Outcome(2, 3, requests=[Timed("r1", 0, [1, 2]), Timed("r4", 0, [1])])
    outcome.failures = {"r2": "5xx", "r3": "mid_stream", "r5": "timeout"}
    assert fault_figures(outcome, log) == {
        "faults_injected": 3.0,
        "faults_misclassed": 2.0,  # r4 hung and passed for good, r5 was good and passed for a hang
        "partial_begun": 1.0,
    }


def rows_of(ours: float, floor: float, peer: float, *, limited: bool = False) -> list[Row]:
    figures = {"load_kept": 0.999, "cpu_s_per_mtok": 10.0, "tokens_per_s": 250_000.0}
    rows = []
    for client, error in ((OURS, ours), (FLOOR, floor), ("vllm-bench", -peer)):
        for metric in ("ttft", "e2e"):
            figures = figures | {f"{metric}_error_p50_ms": error / 10, f"{metric}_error_p99_ms": error}
        rows.append(Row("accuracy", "256", client, 0, figures, server_limited=limited))
    return rows


def verdict_of(rows: list[Row], text: str) -> verdict.Line:
    return next(one for one in verdict.judge(rows) if one.text == text)


@pytest.mark.parametrize(
    ("ours", "floor", "expected"), [(0.9, 0.1, "met"), (1.1, 0.1, "not met"), (1.1, 0.5, "met")]
)
def test_a_p99_may_be_a_millisecond_or_three_floors(ours: float, floor: float, expected: str) -> None:
    assert verdict_of(rows_of(ours, floor, 100), "TTFT error at 256 streams, p99").verdict == expected


def test_medians_and_rows_that_do_not_count() -> None:
    rows = rows_of(0.2, 0.1, 100) + rows_of(0.3, 0.1, 100) + rows_of(50.0, 0.1, 100, limited=True)
    found = verdict_of(rows, "TTFT error at 256 streams, p99")
    assert (found.measured, found.verdict) == ("0.25 ms (median of 2)", "met")
    assert verdict_of(rows_of(0.1, 0.1, 100, limited=True), "load kept at 256 streams").verdict == "undecided"


@pytest.mark.parametrize(("peer", "expected"), [(20.0, "met"), (5.0, "not met")])
def test_a_fiftieth_of_the_best_peer(peer: float, expected: str) -> None:
    found = verdict_of(rows_of(0.2, 0.1, peer), "TTFT error at 256 streams, p99, beside the best peer")
    assert found.verdict == expected
    assert found.peer == f"vllm-bench: {peer:.4g}"


def test_without_vllm_bench_no_best_peer_counts() -> None:
    rows = [row for row in rows_of(0.2, 0.1, 100) if row.client != "vllm-bench"]
    rows.append(Row("accuracy", "256", "aiperf", 0, {"ttft_error_p99_ms": 100.0}))
    found = verdict_of(rows, "TTFT error at 256 streams, p99, beside the best peer")
    assert found.verdict == "undecided"
    assert "without vllm bench" in found.measured
    page = report.document(rows, verdict.judge(rows), {}, {"vllm-bench": "no index has it"})
    assert "**vllm-bench was not measured**: no index has it" in page
    assert "no 'best peer' line counts" in page


def test_every_line_is_shown_whatever_was_run() -> None:
    nothing, some = verdict.judge([]), verdict.judge(rows_of(0.2, 0.1, 100))
    assert [line.text for line in nothing] == [line.text for line in some]
    assert all(line.verdict == "undecided" for line in nothing)
    page = report.verdict_table(some)
    assert all(line.text.replace("|", "\\|") in page for line in some)


def test_the_plan_pairs_each_run_with_a_floor_and_bounds_every_job() -> None:
    jobs = plan(list(PEERS), runs=5, quick=False)
    for streams in LEVELS:
        clients = [job.client for job in jobs if (job.scenario, job.level) == ("accuracy", str(streams))]
        assert clients[:10] == [OURS, FLOOR] * 5
    assert all(job.load.requests <= 12_000 and job.limit_s <= 300 for job in jobs)
    assert sum(job.estimate_s for job in jobs if job.essential) <= 1320
    assert sum(job.estimate_s for job in plan(["vllm-bench"], runs=1, quick=True)) <= 300


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize("load", [Load(10, concurrency=2), Load(10, rate_per_s=5.0, arrival="poisson")])
def test_every_peer_has_a_command_for_both_loops(name: str, load: Load, tmp_path: Path) -> None:
    command = PEERS[name](tmp_path / name, tmp_path / "tokenizer").command(
        load, "http://127.0.0.1:9", tmp_path
    )
    assert Path(command[0]).parent == tmp_path / name / "bin"
    said = " ".join(command) + "".join(path.read_text() for path in tmp_path.glob("config.yml"))
    assert "127.0.0.1:9" in said
    assert str(tmp_path / "tokenizer") in said


def test_the_floor_and_the_log_tell_the_same_story(tmp_path: Path) -> None:
    options = ("--ttft-ms", "5", "--gap-ms", "1", "--tokens", "8", "--chunk-layout", "plain")
    with processes.TruthServer(tmp_path, options) as server:
        done = drive(("127.0.0.1", int(server.url.rpartition(":")[2])), 2, 6, 8, 20.0)
        assert server.died() is None
    log = arithmetic.read_log(server.log_path)
    requests = [Timed(ident, sent, stamps) for ident, sent, stamps in done]
    assert len(requests) == len(log.requests) == 6
    assert arithmetic.matched(log, requests)["matched"] == 6
    each = [arithmetic.matched(log, [one]) for one in requests]
    # The clocks agree: the least disturbed request shows it, and none is seen before it was sent.
    assert min(one["gap_error_p50_ms"] for one in each) < 2
    assert min(one["ttft_error_p50_ms"] for one in each) < 50
    assert min(one["stamp_error_p50_ms"] for one in each) > 0


def test_a_command_at_its_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    child = "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    code = (
        "import subprocess, sys, time\n"
        + child
        + "open('pid', 'w').write(str(p.pid))\nprint('here', flush=True)\ntime.sleep(60)"
    )
    done = processes.run([sys.executable, "-c", code], tmp_path, limit_s=3.0, every_s=0.05)
    assert (done.code, done.words) == (None, "here")
    assert done.usage.processes == 2
    assert done.usage.rss_peak > 2**22
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_help_and_list_need_no_peer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.loadgen_peers"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    helped = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60
    )
    assert helped.returncode == 0
    assert "--no-install" in helped.stdout
    words = ["--list", "--no-install", "--venvs", str(tmp_path), "--peers", "vllm-bench"]
    listed = subprocess.run([*command, *words], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)
    assert listed.returncode == 0, listed.stderr
    assert "vllm-bench: NOT AVAILABLE" in listed.stdout
    assert "accuracy 512 raw-socket floor #5" in listed.stdout
