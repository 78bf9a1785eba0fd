"""Shared by all tests: a clean environment, and nothing left running or lying about."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.grouping import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_xdist_make_scheduler",
]

# No example has a time limit and none is drawn at random: the same commit gives the same answer on any machine.
# ``make test-long`` looks further, with new examples each time (profile "search").
settings.register_profile(
    "accelbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "search", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("accelbench")

# A shell background job ignores SIGINT, nohup ignores SIGHUP, and every child inherits that; tests that interrupt a
# child need the defaults.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings and credentials must not decide a test."""
    for name in list(os.environ):
        if name.startswith(("ACCELBENCH_", "AWS_", "PG")) and name != "ACCELBENCH_UPDATE_SNAPSHOT":
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ``ACCELBENCH_HOME`` (its lake inside), with the working directory beside it."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "home"
    monkeypatch.setenv("ACCELBENCH_HOME", str(place))
    return place
