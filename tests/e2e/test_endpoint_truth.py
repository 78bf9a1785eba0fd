"""A server somebody else runs, whose own log tells the truth: our figures must agree with it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli

pytestmark = pytest.mark.xdist_group("truth")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    folder = tmp_path_factory.mktemp("truth")
    log = folder / "truth.jsonl"
    flags = ["--port", "0", "--slots", "64", "--ttft-ms", "50", "--gap-ms", "10", "--log", str(log)]
    process = subprocess.Popen(
        [sys.executable, "-m", "loadgen", "truth", *flags, "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None

    def stop() -> None:
        process.terminate()
        process.wait(60)

    yield json.loads(process.stdout.readline())["url"], log, stop
    stop()


@pytest.fixture(scope="module")
def measured(
    truth: tuple[str, Path, Callable[[], None]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cli, dict[str, object]]:
    cli = Cli(tmp_path_factory.mktemp("endpoint") / "home")
    flags = ["--concurrency", "16", "--isl", "32", "--osl", "64", "--duration", "4", "--warmup", "1"]
    document = cli.json("run", "--endpoint", truth[0], "--model", "truth", *flags)
    cli.wait_until_nothing_runs()
    truth[2]()  # its log is complete once it has ended
    return cli, document


def test_ttft_and_e2e_agree_with_the_servers_own_log(
    measured: tuple[Cli, dict[str, object]], truth: tuple[str, Path, Callable[[], None]]
) -> None:
    cli, _ = measured
    told = {}
    for line in truth[1].read_text().splitlines():
        row = json.loads(line)
        if row.get("sends_ns"):
            told[row["request_id"]] = row
    rows = cli.sql(
        "select request_id, ttft_ms, e2e_ms, output_tokens from raw_samples where phase = 'measure'"
    )
    assert len(rows) > 50
    beyond: dict[str, list[float]] = {"ttft_ms": [], "e2e_ms": []}
    for row in rows:
        true = told[row["request_id"]]
        for name, end in (("ttft_ms", 0), ("e2e_ms", -1)):
            beyond[name].append(row[name] - (true["sends_ns"][end] - true["received_ns"]) / 1e6)
    for name, found in beyond.items():
        # The way there and back is ours to count; what a busy machine adds to most requests it does not add to all.
        assert min(found) > -0.1, f"{name} is shorter than the server took"
        assert min(found) <= 2.0, name
    assert all(r["output_tokens"] == 64 for r in rows)


def test_nothing_simulated_is_shown_as_measured_or_ranked(measured: tuple[Cli, dict[str, object]]) -> None:
    cli, _ = measured
    assert [r["origin"] for r in cli.sql("select distinct origin from runs")] == ["simulated"]
    assert cli.sql("select * from price_performance") == []
    assert len(cli.sql("select * from benchmark_results")) == 1
    listed = cli.json("query")
    assert (listed["rows"] if isinstance(listed, dict) else listed) == []
