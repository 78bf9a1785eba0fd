from collections.abc import Iterator

import pytest

from tests.releases.sources import Running, Sources


@pytest.fixture
def sources() -> Iterator[Sources]:
    with Running(Sources()) as state:
        yield state


@pytest.fixture(autouse=True)
def _no_hub_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
