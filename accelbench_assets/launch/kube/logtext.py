"""What the last lines of a model server say about its death.

Belongs here: the texts by which engines, accelerator runtimes and the model hub are known to fail.
Does not belong here: pods and containers (``diagnose``).

Texts are those of vLLM 0.6 to 0.32, torch, the Neuron runtime, transformers and huggingface_hub. The first pattern
that matches decides: causes stand before what follows from them ("Engine core initialization failed").
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Said(NamedTuple):
    """A cause read from a log: the failure code and the line that says so."""

    code: str
    line: str


_REFUSED = r"\b40[13] client error"  # by the hub, or by anybody else: see _of_hub
_CAUSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (code, re.compile(pattern, re.I))
    for code, pattern in (
        ("does_not_fit", r"no available memory for the cache blocks"),
        ("does_not_fit", r"larger than the maximum number of tokens that can be stored in kv cache"),
        ("does_not_fit", r"larger than the available kv cache memory"),
        ("not_ready", r"free memory on device .*is less than desired \w+ memory utilization"),
        ("does_not_fit", r"(cuda|hip) out of memory|torch\.(cuda\.)?OutOfMemoryError"),
        ("does_not_fit", r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
        ("does_not_fit", r"nrt_\w+.*(allocation failure|status=4\b)|NRT_RESOURCE\b"),
        ("does_not_fit", r"TDRV:.*failed to alloc(ate)?\b.*memory"),
        ("gated_model", r"gated repo(sitory)?\b|GatedRepoError|is gated\. you must"),
        ("gated_model", r"access to model \S+ is restricted"),
        ("model_not_found", r"repository not found|revision not found|(Repository|Revision)NotFoundError"),
        ("model_not_found", r"not a valid (model|git) identifier|not a valid repository name"),
        ("gated_model", r"invalid (user token|credentials in authorization header)"),
        ("gated_model", _REFUSED),
        ("bad_config", r"^\s*[\w./-]+: error: |error: unrecognized arguments|error: argument "),
        ("bad_config", r"validation errors? for \w*(Config|Args)"),
        ("disk_full", r"no space left on device"),
    )
)


_HUB = re.compile(
    r"huggingface\.co|\bhf\.co|huggingface_hub|HfHub|HFValidationError|\bgated\b|access to model"
    r"|\brepo[_ ]id\b|(Repository|Revision|Entry)NotFoundError",
    re.I,
)


def cause_in(log: str) -> Said | None:
    """The cause an engine's last lines name, the latest line of the first cause that is named at all.

    Code ``not_ready`` says that somebody else held the accelerator's memory at the start.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for code, pattern in _CAUSES:
        for number, line in reversed(list(enumerate(lines))):
            if pattern.search(line) and (pattern.pattern != _REFUSED or _of_hub(lines[number : number + 3])):
                return Said(code, _without_prefix(line))
    return None


def _of_hub(lines: list[str]) -> bool:
    """Whether it is the hub that refused in the first line; without an address there, the next lines tell."""
    return _HUB.search(lines[0] if "://" in lines[0] else " ".join(lines)) is not None


_LOG_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|INFO|WARNING)\s[\d:. -]*(\[[^\]]*\]\s*)?)?")


def _without_prefix(line: str, limit: int = 300) -> str:
    """*line* without vLLM's process, level, time and place."""
    text = _LOG_PREFIX.sub("", line).strip() or line
    return text if len(text) <= limit else text[: limit - 1] + "…"
