from collections.abc import Iterator

import pytest

from tests.models.hub_server import Hub, Running


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Running() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_token_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
