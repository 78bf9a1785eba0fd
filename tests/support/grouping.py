"""Which tests share a worker under ``pytest -n``: those of one ``xdist_group``, else those of one file.
Slow ones come first.

Belongs here: the hooks of pytest-xdist that decide it (``tests/conftest.py`` takes them over). Does not belong here:
what the groups are for (the tests say so with the mark).

xdist's own ``loadgroup`` passes a test's group in a suffix of its id, which pytest 9.2 no longer lets it add: every
group then runs on all workers at once, silently. Here the workers tell the controller in a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOLD = "accelbench_groups"


def scope_of(item: pytest.Item) -> str:
    """The name of what *item* shares its worker with."""
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return item.nodeid.partition("::")[0]
    return str(mark.args[0] if mark.args else mark.kwargs["name"])


class Grouped(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out scopes whole, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any, told: Path) -> None:
        super().__init__(config, log)
        self.told = told
        self.scopes: dict[str, str] = {}

    def schedule(self) -> None:
        """Read what the workers told before the first distribution."""
        if not self.scopes and self.told.exists():
            self.scopes = json.loads(self.told.read_text(encoding="utf-8"))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.scopes.get(nodeid, nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of the controller: tell each worker where to write."""
    node.workerinput[TOLD] = str(_place(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped | None:
    """Of the controller, for ``--dist loadgroup`` and where nothing was said."""
    if config.getvalue("dist") not in ("loadgroup", "load"):
        return None
    config.option.loadscopereorder = False  # the workers have put them in order
    return Grouped(config, log, _place(config))


def _place(config: pytest.Config) -> Path:
    found = getattr(config, "_accelbench_groups", None)
    if found is None:
        folder = tempfile.TemporaryDirectory(prefix="accelbench-groups-")
        config.add_cleanup(folder.cleanup)
        found = config._accelbench_groups = Path(folder.name) / "groups.json"  # type: ignore[attr-defined]
    return Path(found)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a worker: scopes with most slow tests first, then the largest, so that both workers end together."""
    if not hasattr(config, "workerinput"):
        return
    slow = Counter(scope_of(item) for item in items if item.get_closest_marker("slow"))
    size = Counter(scope_of(item) for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        scope = scope_of(item)
        return -slow[scope], -size[scope], scope

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Of a worker: tell the scopes, before xdist tells the tests."""
    told = getattr(session.config, "workerinput", {}).get(TOLD)
    if told:
        mine = Path(f"{told}.{os.environ['PYTEST_XDIST_WORKER']}")
        mine.write_text(json.dumps({item.nodeid: scope_of(item) for item in session.items}), encoding="utf-8")
        mine.replace(told)
