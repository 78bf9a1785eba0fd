"""Shared by the tests of prices: a lake of its own, and the AWS endpoints on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from accelbench_assets.lake.lake import Lake
from tests.pricing.price_server import Prices


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open((tmp_path / "lake").as_uri())


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prices]:
    with Prices() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


@pytest.fixture
def asking(home: Path, prices: Prices, monkeypatch: pytest.MonkeyPatch) -> Prices:
    """Settings that ask the test's server for one region, by its public files, under a fresh ``ACCELBENCH_HOME``."""
    monkeypatch.setenv("ACCELBENCH_PRICES", prices.settings().model_dump_json())
    return prices
