"""A real PostgreSQL, one fresh and empty database a test; and a look into the ledger beside the code under test."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from accelbench_assets.budget.ledger import PostgresBudget, PostgresReservation
from accelbench_assets.settings_groups import BudgetSettings
from tests.sql.conftest import dsn, local_lake, postgres

__all__ = ["dsn", "local_lake", "postgres"]

Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def sql(dsn: str) -> Rows:
    """Run a statement on the ledger's database; its rows."""

    def run(statement: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row, options="-c timezone=UTC") as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def ledger(sql: Rows) -> Callable[[], dict[str, dict[str, Any]]]:
    """The ledger's rows by run."""
    return lambda: {row["run_id"]: row for row in sql("select * from accelbench.budget_ledger")}


@pytest.fixture
def budget(dsn: str) -> PostgresBudget:
    return caps(dsn)


def caps(dsn: str, **settings: Any) -> PostgresBudget:
    return PostgresBudget(dsn, BudgetSettings(**settings))


def take(
    budget: PostgresBudget, run_id: str, usd: str = "2", *, usd_per_hour: str = "1", ttl_s: float = 600.0
) -> PostgresReservation:
    return budget.reserve(
        run_id,
        usd=Decimal(usd),
        usd_per_hour=Decimal(usd_per_hour),
        instance_type="g6e.xlarge",
        ttl_s=ttl_s,
    )
