"""A million samples joined with runs and percentiles by ``accelbench sql``, beside DuckDB alone on the same files."""

import json
import statistics
import time
from pathlib import Path

import duckdb
import pytest

from accelbench_assets.lake.lake import Lake
from tests.support.cli import Cli
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run

JOIN = """
select r.model_id, s.step_index, p.p50, count(*) as requests, avg(s.ttft_ms) as mean,
       quantile_cont(s.e2e_ms, 0.99) as p99
from raw_samples as s
join runs as r using (run_id)
join run_percentiles as p on p.run_id = s.run_id and p.step_index = s.step_index and p.metric = 'ttft'
where s.phase = 'measure' and s.status = 'ok'
group by all order by all
"""
BARE = """
select r.model_id, step_index, count(*) as requests, avg(ttft_ms) as mean, quantile_cont(e2e_ms, 0.99) as p99
from read_parquet('{lake}/raw_samples/*/*/*/*.parquet') join read_json('{lake}/runs/*/*.json') as r using (run_id)
where phase = 'measure' group by all
"""


@pytest.mark.long
def test_a_million_samples_join_in_two_seconds(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    lake = Lake.open((cli.home / "lake").as_uri())
    for number in range(40):
        put_run(lake, make_record(make_cell(model=f"model-{number % 8}")), rows=12_500, steps=2)
    put_prices(lake, [make_price("local-1a2b3c4d", "1")])
    whole, bare = [], []
    for _ in range(5):
        began = time.perf_counter()
        done = cli.run("sql", JOIN, "--json")
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        duckdb.connect().sql(BARE.format(lake=cli.home / "lake")).fetchall()
        bare.append(time.perf_counter() - began)
    assert sum(row["requests"] for row in json.loads(done.stdout)["rows"]) == 1_000_000
    command, alone = statistics.median(whole), statistics.median(bare)
    print(
        f"\naccelbench sql, start to exit: {command:.2f} s; DuckDB alone: {alone:.2f} s; ratio {command / alone:.1f}"
    )
    assert command < 2.0, whole
