"""Fixtures: a lake on each storage, a folder and a real S3 server. Import them in a folder's
``conftest.py``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from tests.support.seaweed import Seaweed
from tests.support.shared import once

BUCKET = "accelbench-test"
S3_GROUP = pytest.mark.xdist_group("s3")


@contextmanager
def _with_bucket(folder: Path) -> Iterator[Seaweed]:
    with Seaweed(folder) as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Seaweed:
    return once(pytestconfig, "seaweed", lambda: _with_bucket(tmp_path_factory.mktemp("seaweed")))


@pytest.fixture
def s3_environment(s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def local_lake(tmp_path: Path) -> Lake:
    return Lake.open((tmp_path / "lake").as_uri())


@pytest.fixture
def s3_lake(s3_environment: Seaweed) -> Lake:
    return Lake.open(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")


@pytest.fixture(params=["file", pytest.param("s3", marks=S3_GROUP)])
def lake(request: pytest.FixtureRequest) -> Lake:
    """The same test on both storages."""
    name = "local_lake" if request.param == "file" else "s3_lake"
    return request.getfixturevalue(name)  # type: ignore[no-any-return]
