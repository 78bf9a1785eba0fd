"""Receivers of messages, and messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from accelbench_assets.notify.message import Ended, Message, compose
from tests.notify.servers import Hook, hook_server
from tests.support.lakes import local_lake
from tests.support.runs import make_record

__all__ = ["local_lake"]

DAGSTER_RUN = "0f5b2f5e-8d0e-4b58-9b7c-0f4b7a4f0001"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with hook_server() as server:
        yield server


@pytest.fixture
def message() -> Message:
    return compose(Ended(DAGSTER_RUN, "success"), make_record())


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
