"""Tells what kind of server answers: its engine, version and arguments as far as it says them.

Belongs here: the marks by which servers are known. Does not belong here: reaching the server (``endpoint``).
The ground-truth server marks every answer with ``x-accelbench-origin: simulated``; its results are never
``measured``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelbench_assets.launch.probe import Reply, Server

ORIGIN_HEADER = "x-accelbench-origin"
_KNOWN_OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llamacpp",
    "truth": "truth",
    "library": "ollama",
}
_VERSION_PATHS = {
    "vllm": ("/version",),
    "sglang": ("/get_server_info", "/server_info"),
    "tgi": ("/info",),
    "ollama": ("/api/version",),
    "truth": ("/version",),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Engine name and version (``None`` where the server does not say) and its arguments."""

    engine: str | None = None
    version: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def origin_of(reply: Reply) -> str:
    """``simulated`` when the answer is marked so, else ``measured``."""
    return "simulated" if reply.headers.get(ORIGIN_HEADER, "").strip().lower() == "simulated" else "measured"


def identify(server: Server, models: Reply, rows: Sequence[Mapping[str, Any]]) -> Identity:
    """From the answer to ``/v1/models`` (and its *rows*), then from the paths only that engine has."""
    software = models.headers.get("server", "").lower()
    owners = {str(row.get("owned_by", "")).lower() for row in rows}
    named = sorted(_KNOWN_OWNERS[owner] for owner in owners if owner in _KNOWN_OWNERS)
    engine = "truth" if origin_of(models) == "simulated" else named[0] if named else None
    if engine is None and ("llama.cpp" in software or "text-generation" in software):
        engine = "llamacpp" if "llama.cpp" in software else "tgi"
    arguments = {"max_model_len": rows[0]["max_model_len"]} if rows and rows[0].get("max_model_len") else {}
    if engine == "llamacpp":
        return _llamacpp(server)
    if engine is None:
        return Identity()
    for path in _VERSION_PATHS.get(engine, ()):
        said = server.get_json(path)
        if isinstance(said, dict) and said.get("version"):
            return Identity(engine, str(said["version"]), arguments)
    return Identity(engine, None, arguments)


def _llamacpp(server: Server) -> Identity:
    props = server.get_json("/props")
    if not isinstance(props, dict):
        return Identity("llamacpp")
    build = str(props.get("build_info") or "")
    context = (props.get("default_generation_settings") or {}).get("n_ctx")
    arguments = {
        "max_model_len": context,
        "parallel": props.get("total_slots"),
        "model_ftype": props.get("model_ftype"),
    }
    known = {k: v for k, v in arguments.items() if v is not None}
    return Identity("llamacpp", None if not build or "unknown" in build else build, known)
