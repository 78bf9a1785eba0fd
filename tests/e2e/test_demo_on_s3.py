"""The whole demo, as a newcomer types it, with the lake on a real S3 server; and the same ladder in short windows."""

from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.seaweed import Seaweed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("s3")]
SHORT = (
    *("run", "--model", "smollm2-135m-instruct", "--concurrency", "1,2,4", "--isl", "16", "--osl", "2"),
    *("--duration", "3", "--warmup", "0.2"),
)


@pytest.mark.parametrize(
    "words", [pytest.param(SHORT, id="short"), pytest.param(("demo",), id="demo", marks=pytest.mark.long)]
)
def test_demo_end_to_end_with_the_lake_on_s3(tmp_path: Path, words: tuple[str, ...]) -> None:
    with Seaweed(tmp_path / "s3") as server:
        server.create_bucket("lake")
        cli = Cli(tmp_path / "home", {**server.environment(), "ACCELBENCH_LAKE": "s3://lake/demo"})
        document = cli.json(*words)
        cli.wait_until_nothing_runs()

        steps = cli.sql(
            "select s.load_value, s.ok, s.errors, r.origin, r.evidence_level, r.status from run_steps s "
            "join runs r using (run_id) order by s.load_value"
        )
        evidence = "demo" if words == ("demo",) else steps[0]["evidence_level"]
        assert [row["load_value"] for row in steps] == [1, 2, 4]
        assert all(row["origin"] == "measured" and row["evidence_level"] == evidence for row in steps)
        assert all(row["ok"] > 0 and row["errors"] == 0 for row in steps)
        gates = cli.sql("select metric, p50, p50_gate, p999, p999_gate from run_percentiles")
        assert {"ttft", "tpot", "itl", "e2e"} <= {row["metric"] for row in gates}
        # The tail nobody can know from a few dozen requests is absent, never a number.
        assert all(
            row["p999"] is None and row["p999_gate"] == "needs_n" for row in gates if row["metric"] == "ttft"
        )
        costs = cli.sql("select usd_per_request, missing_reason from cost_per_token")
        assert costs
        assert all(row["usd_per_request"] is None and row["missing_reason"] for row in costs)
        assert cli.sql("select * from price_performance") == []
        assert (cli.home / "site" / "index.html").exists()
        assert not (cli.home / "lake").exists(), "with the lake on S3 no second lake may grow on disk"
        keys = server.keys("lake")
        assert any("/runs/date=" in key for key in keys)
        assert not any("/_incoming/" in key and key.endswith(".parquet") for key in keys)
        assert document
