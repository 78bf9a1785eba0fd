"""The emulated cluster passes the checks that any real one is held to with ``make conformance``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.conformance import CHECKS, IMAGE, Run, made_up_run
from tests.launch.kube.harness import KubeLocal

pytestmark = pytest.mark.xdist_group("conformance")
KUBE = KubeSettings(lease_renew_s=0.3, lease_stale_s=5.0, poll_s=0.1)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    folder = tmp_path_factory.mktemp("conformance")
    with KubeLocal(folder, images={IMAGE: [sys.executable]}, scale=0.05) as kube:
        yield kube


@pytest.fixture
def run(emulated: KubeLocal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    for name, value in emulated.env().items():
        monkeypatch.setenv(name, value)
    with made_up_run(Cluster.connect(KUBE), KUBE, IMAGE) as found:
        yield found


@pytest.mark.parametrize("name", CHECKS)
def test_the_emulation_conforms(name: str, run: Run) -> None:
    CHECKS[name](run)
