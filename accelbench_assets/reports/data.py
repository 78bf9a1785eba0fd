"""Rows for a page: its queries, run on a connection that has the lake's tables and views attached.

Belongs here: executing queries and handing out plain dictionaries.
Does not belong here: SQL text (``reports/pages``), formatting (``format``), attaching the lake (``sqlkit``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.reports.pages import Page

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = Mapping[str, Any]


def run_queries(connection: DuckDBPyConnection, page: Page) -> dict[str, list[Row]]:
    """All queries of *page* by name. Raises ``AccelBenchError`` naming the page and the query that failed."""
    import duckdb

    answers: dict[str, list[Row]] = {}
    for name, sql in page.queries.items():
        try:
            cursor = connection.execute(sql)
        except duckdb.Error as error:
            first_line = str(error).splitlines()[0]
            raise AccelBenchError(f"Report page {page.name}, query {name} failed: {first_line}") from error
        columns = [column[0] for column in cursor.description or ()]
        answers[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return answers
