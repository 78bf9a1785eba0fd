"""The engines this version can start, by the name cells call them.

Belongs here: the registry, and what a cell for this machine must say of an engine and a model.
Does not belong here: how any of them works (one module each). A new engine is one module and one line here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from accelbench_assets.engines.base import Engine
from accelbench_assets.engines.llamacpp import LlamaCpp
from accelbench_assets.engines.vllm import Vllm
from accelbench_assets.errors import LaunchError

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LlamaCpp(), Vllm())}


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """The fields of a cell that this machine decides: take them to build one that it can serve."""

    model: str
    revision: str
    engine: str
    engine_version: str
    quantization: str
    dtype: str


def get_engine(name: str) -> Engine:
    """The engine called *name*; ``LaunchError`` (``unknown_engine``) listing those there are."""
    if name not in ENGINES:
        raise LaunchError(
            f"Engine {name} cannot be started on this machine; there are: {', '.join(sorted(ENGINES))}.",
            code="unknown_engine",
        )
    return ENGINES[name]


def local_target(engine: str, model: str, home: Path) -> LocalTarget:
    """What *engine* would serve as *model* here.

    Raises ``LaunchError``: ``unknown_engine``, ``missing_part``, ``model_not_found``.
    """
    found = get_engine(engine)
    version = found.installed_version(home)
    weights = found.weights(model, home)
    dtype = weights.dtype if weights.quantization == "none" else "auto"
    return LocalTarget(model, weights.revision, engine, version, weights.quantization, dtype)


def suite_tokens(home: Path) -> dict[str, str]:
    """What a suite leaves to this machine: its instance, and the version of each engine that is installed here."""
    from accelbench_assets.launch.host import local_instance

    known = {"local": local_instance()}
    for name, engine in ENGINES.items():
        with contextlib.suppress(LaunchError):  # not installed: its cells are left out
            known[f"engine:{name}"] = engine.installed_version(home)
    return known
