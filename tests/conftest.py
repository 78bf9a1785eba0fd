"""Shared by all tests: a clean environment, and nothing left running or lying about."""

import os
import signal
from pathlib import Path

import pytest

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
