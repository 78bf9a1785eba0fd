"""SQL files: descriptions, dependencies, order, and the walls of the portable subset."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit import files
from accelbench_assets.sqlkit.dialect import NotPortableError, to_postgres
from accelbench_assets.sqlkit.files import SqlFile, SqlFileError, in_order, sql_file, sql_files, table_names

MARTS = {
    "benchmark_results",
    "cost_per_token",
    "price_performance",
    "coverage",
    "latest_prices",
    "mix_regression",
    "run_costs",
}


def test_every_mart_is_described_and_reads_what_exists() -> None:
    marts = {file.name: file for file in sql_files("marts")}
    assert marts.keys() >= MARTS
    for file in marts.values():
        assert len(file.description) > 40
        assert set(file.depends_on) <= set(SCHEMAS) | marts.keys(), "views are resolved to what they read"
    assert marts["benchmark_results"].depends_on == (
        "run_percentiles",
        "run_steps",
        "runs",
        "slo_results",
        "supersessions",
    )
    assert marts["price_performance"].depends_on == ("benchmark_results", "cost_per_token")
    names = [file.name for file in sql_files("marts")]
    assert names.index("latest_prices") < names.index("cost_per_token")
    assert [file.name for file in sql_files("marts") if not file.stored] == ["cost_per_token"]
    assert names.index("benchmark_results") < names.index("cost_per_token") < names.index("price_performance")


def test_ctes_are_no_dependencies() -> None:
    text = "with a as (select * from x), b as (select * from a) select * from b join s.y using (i)"
    assert table_names(text) == ("x", "y")
    with pytest.raises(SqlFileError, match="does not parse"):
        table_names("select from where")


def write(folder: Path, name: str, text: str) -> None:
    (folder / "marts").mkdir(exist_ok=True)
    (folder / "marts" / f"{name}.sql").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "SQL_DIR", tmp_path)
    for cached in (files.sql_files, files.files_as_written):
        cached.cache_clear()
        monkeypatch.setattr(files, cached.__name__, cached.__wrapped__)
    return tmp_path


def test_comments_and_layout_do_not_change_the_hash(folder: Path) -> None:
    write(folder, "m", "-- One.\nselect a, b from t")
    first = files.sql_file("marts", "m").sha256
    write(folder, "m", "-- Another text.\n-- And more.\nselect a,\n  b\nfrom t -- here too\n")
    assert files.sql_file("marts", "m").sha256 == first
    write(folder, "m", "-- One.\nselect b, a from t")
    assert files.sql_file("marts", "m").sha256 != first


def test_a_file_without_description_is_refused(folder: Path) -> None:
    write(folder, "m", "select 1")
    with pytest.raises(SqlFileError, match="first line must be a comment"):
        files.sql_files("marts")


def test_unknown_names_and_circles_are_named() -> None:
    with pytest.raises(SqlFileError, match=r"no marts query 'nothing'; there are: .*benchmark_results"):
        sql_file("marts", "nothing")
    with pytest.raises(SqlFileError, match="depend on each other: a, b"):
        in_order([SqlFile("a", "", "", ("b",), ""), SqlFile("b", "", "", ("a",), "")])
    with pytest.raises(SqlFileError, match="depend on each other: a"):
        in_order([SqlFile("a", "", "", ("a",), "")])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("select arg_max(a, b) from t", "arg_max"),
        ("select any_value(a) from t", "any_value"),
        ("select try_cast(a as double) from t", "try_cast"),
        ("select a, count(*) from t group by all", "group by all"),
        ("select * exclude (a) from t", "exclude"),
        ("select cast(a as numeric) from t", "without a scale"),
        ("select a::decimal from t", "without a scale"),
        ("select round(a, 2) from t", "rounds to digits"),
        ("select a / b from t", "divides by b"),
        ("select a / 0 from t", "divides by 0"),
        ("select approx_quantile(a, 0.5) from t", "approx_quantile"),
        ("select list_aggregate(a, 'sum') from t", "list_aggregate"),
        ("select json_extract_string(a, '$.x') from t", "JSON"),
        ("select a from t qualify row_number() over (order by a) = 1", "qualify"),
        ("select from", "not portable"),
    ],
)
def test_what_would_change_its_meaning_is_refused(text: str, named: str) -> None:
    with pytest.raises(NotPortableError, match=named):
        to_postgres(text)


def test_the_subset_passes() -> None:
    text = to_postgres(
        "select cast(a as double), a / nullif(b, 0), a / 3600.0, a::decimal(20, 10), "
        "count(*) filter (where a > 1), row_number() over (partition by b order by a desc nulls last) from t group by 1"
    )
    assert "WINDOW alike AS (" in to_postgres(
        "select sum(a) over alike from t window alike as (partition by b)"
    )
    assert "DOUBLE PRECISION" in text
    assert "NULLS LAST" in text
    assert "DECIMAL(20, 10)" in text
