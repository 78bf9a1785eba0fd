"""Which kinds of result files there are, and which of them a file is.

Belongs here: one line a kind, detection by content. Does not belong here: a kind's format (its module).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelbench_assets.importers import (
    aiperf,
    aiperf_records,
    genai_perf,
    guidellm,
    inference_perf,
    oha,
    vllm_bench,
)
from accelbench_assets.importers.document import ImportRefused, Source, read_source
from accelbench_assets.importers.model import ImportedRun


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of result file. ``lines``: JSON lines; ``appended``: the tool can put several results in a file."""

    name: str
    writes: str
    matches: Callable[[Any], bool]
    read: Callable[[Source], list[ImportedRun]]
    lines: bool = False
    appended: bool = False


KINDS: tuple[Kind, ...] = (
    Kind("vllm_bench", "vllm bench serve --save-result", vllm_bench.matches, vllm_bench.read, appended=True),
    Kind("guidellm", "guidellm run --output kind=json", guidellm.matches, guidellm.read),
    Kind("aiperf", "aiperf's profile_export_aiperf.json", aiperf.matches, aiperf.read),
    Kind(
        "aiperf_records",
        "aiperf's profile_export.jsonl",
        aiperf_records.matches,
        aiperf_records.read,
        lines=True,
    ),
    Kind("genai_perf", "genai-perf's *_genai_perf.json", genai_perf.matches, genai_perf.read),
    Kind(
        "inference_perf",
        "inference-perf's *_lifecycle_metrics.json",
        inference_perf.matches,
        inference_perf.read,
    ),
    Kind("oha", "oha --output-format json", oha.matches, oha.read),
)


def kind_of(source: Source) -> Kind:
    """The kind of a file that was read; ``ImportRefused`` when it is none of them."""
    document = source.documents[0]
    for kind in KINDS:
        if kind.lines == source.lines and kind.matches(document):
            if len(source.documents) > 1 and not (kind.lines or kind.appended):
                raise ImportRefused(
                    f"{source.name} holds {len(source.documents)} results of {kind.writes}, which writes one.",
                    hint="Import the files as the tool wrote them, one by one.",
                )
            return kind
    known = "; ".join(kind.writes for kind in KINDS)
    raise ImportRefused(
        f"{source.name} is no result file that can be imported.", hint=f"Importable: {known}."
    )


def detect(path: Path) -> str:
    """The name of the kind of *path*. Raises ``ImportRefused`` for a file that cannot be read or is none."""
    return kind_of(read_source(path)).name


def read_file(path: Path) -> tuple[Source, list[ImportedRun]]:
    """The benchmarks in *path*, in its order. Raises ``ImportRefused`` naming file and field."""
    source = read_source(path)
    return source, kind_of(source).read(source)
