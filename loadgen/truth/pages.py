"""What the ground-truth server answers besides completions.

Belongs here: health, version, models, metrics, tokenising, and the refusal of anything else. Does not belong
here: sockets (``loop``), the metrics' names (``metrics``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen import __version__
from loadgen.truth import metrics
from loadgen.truth.asking import Refusal, refusal, tokenise
from loadgen.truth.incoming import Incoming

if TYPE_CHECKING:
    from loadgen.truth.loop import TruthServer

COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_METHODS = {
    "/health": "GET",
    "/version": "GET",
    "/v1/models": "GET",
    "/metrics": "GET",
    "/tokenize": "POST",
    **dict.fromkeys(COMPLETIONS, "POST"),
}


def page(server: TruthServer, request: Incoming) -> tuple[str, Any]:
    """Status line and content of one page (``str`` = text, else JSON)."""
    method = _METHODS.get(request.path)
    if method is None:
        return refusal(404, f"no such path: {request.path}")
    if request.method != method:
        return refusal(405, f"{request.path} takes {method}, not {request.method}")
    behaviour = server.behaviour
    if request.path == "/health":
        return "200 OK", {"status": "ok"}
    if request.path == "/version":
        return "200 OK", {"version": __version__, "engine": "accelbench-truth"}
    if request.path == "/v1/models":
        kind = {"object": "model", "created": 1, "owned_by": "accelbench-truth"}
        names = behaviour.models or ("truth",)
        data = [{"id": name, **kind, "max_model_len": behaviour.max_model_len} for name in names]
        return "200 OK", {"object": "list", "data": data}
    if request.path == "/tokenize":
        try:
            return "200 OK", tokenise(request.body, behaviour)
        except Refusal as error:
            return error.status, error.document
    return "200 OK", _metrics(server)


def _metrics(server: TruthServer) -> str:
    server.record.settle()
    behaviour, totals, live = server.behaviour, server.totals, server.live()
    if behaviour.metrics_style == "vllm":
        prefix = (0, 0) if server.trie is None else (server.trie.queries, server.trie.hits)
        return metrics.vllm(totals, live, (behaviour.models or ("truth",))[0], behaviour.kv_tokens, prefix)
    if behaviour.metrics_style == "llamacpp":
        return metrics.llamacpp(totals, live)
    figures = server.figures()
    return metrics.own(
        totals, live, {name: figures[name] for name in ("cpu_s", "core_share_max", "clock_jumps")}
    )
