"""The browser bundle is real, and made once for all tests of a process."""

from collections.abc import Iterator
from functools import cache

import pytest

from accelbench_assets.reports import chart


@pytest.fixture(scope="session", autouse=True)
def _one_bundle() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chart, "browser_bundle", cache(chart.browser_bundle))
        yield
