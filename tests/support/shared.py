"""Expensive parts that a whole worker shares, whichever folder's fixture asks first.

Belongs here: making a part once a process and ending it with the session. Does not belong here: the parts themselves.
A session fixture that several ``conftest.py`` import is a fixture of each of them: each would start its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

Part = TypeVar("Part")
_PARTS = pytest.StashKey[dict[str, Any]]()


def once(
    config: pytest.Config, name: str, make: Callable[[], contextlib.AbstractContextManager[Part]]
) -> Part:
    """The part *name*, entered at the first call and left at the end of the session."""
    parts = config.stash.setdefault(_PARTS, {})
    if name not in parts:
        stack = contextlib.ExitStack()
        parts[name] = stack.enter_context(make())
        config.add_cleanup(stack.close)
    return parts[name]  # type: ignore[no-any-return]
