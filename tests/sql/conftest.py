"""A real PostgreSQL for all tests here, one fresh database a test; lakes from ``tests.support``."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.support.lakes import lake, local_lake, s3_environment, s3_lake, s3_server
from tests.support.shared import once

__all__ = ["lake", "local_lake", "s3_environment", "s3_lake", "s3_server"]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> EmbeddedPostgres:
    return once(pytestconfig, "postgres", lambda: EmbeddedPostgres(tmp_path_factory.mktemp("postgres")))


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return postgres.dsn.rsplit("/", 1)[0] + f"/{name}"
