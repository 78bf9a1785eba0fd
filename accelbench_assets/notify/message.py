"""What is said of a run that has ended: a subject, a text for people, a document for programs.

Belongs here: wording and the document's fields. Does not belong here: finding the record (``tell``), sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.scrub import scrub
from partitions.cell import CellError, CellKey

OUTCOMES = ("success", "failure", "canceled")
"""How a Dagster run ends; the words of the setting ``notify.on``."""
KIND = "accelbench.run_ended/1"
MAX_TEXT = 1500
MAX_SUBJECT = 160
_WORDS = {"success": "succeeded", "failure": "failed", "canceled": "cancelled"}
_FIELDS = (
    *(
        "run_id",
        "cell_key",
        "cell_id",
        "model_id",
        "instance_type",
        "engine",
        "engine_version",
        "workload_id",
    ),
    *("status", "origin", "evidence_level", "failure_code", "failure_text", "suite_id", "requested_by"),
    *("requested_at", "committed_at", "run_cost_usd", "samples_rows", "reproduce_command"),
)


class NotifyError(AccelBenchError):
    """A message could not be delivered; names the receiver's host, never the secret part of its address."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What Dagster knows of a run that has ended. *outcome* is one of ``OUTCOMES``; *run_ids* are the ids of attempts
    that its events or its config name, the surest first; *error* is what the failed step said.
    """

    dagster_run_id: str
    outcome: str
    partition_key: str | None = None
    run_ids: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One line, a few lines, and the same as JSON types."""

    subject: str
    text: str
    document: Mapping[str, Any]


def compose(
    ended: Ended,
    record: Mapping[str, Any] | None,
    *,
    figures: Mapping[str, float | str] | None = None,
    page_url: str | None = None,
    secrets: Iterable[str] = (),
) -> Message:
    """The message for *ended* with what its runs *record* says, or without one (an orchestrator that died leaves it to
    the reaper). *figures* are headline figures by name, *page_url* is the Dagster UI's address.
    """
    hidden = tuple(secrets)
    facts: dict[str, Any] = dict.fromkeys(_FIELDS)
    facts |= {name: record.get(name) for name in _FIELDS} if record else {"failure_text": ended.error}
    facts["cell_key"] = facts["cell_key"] or ended.partition_key
    facts = {name: _clean(value, hidden) for name, value in facts.items()}
    status = facts["status"] or _WORDS[ended.outcome]
    link = f"{page_url.rstrip('/')}/runs/{ended.dagster_run_id}" if page_url else None
    subject = _one_line(f"AccelBench: {status.replace('_', ' ')}: {_what(facts)}")
    shown = {name: value for name, value in (figures or {}).items() if value is not None}
    lines = {
        "Why": _why(facts),
        "Record": None if record else "none was found",
        "Figures": ", ".join(f"{name} {_number(value)}" for name, value in shown.items()),
        "Note": _standing(facts),
        "Cost": None if facts["run_cost_usd"] is None else f"{facts['run_cost_usd']:.2f} USD",
        "Cell": facts["cell_key"],
        "Run": facts["run_id"],
        "Again": facts["reproduce_command"],
        "Page": link,
    }
    text = "\n".join([subject, *(f"{name}: {value}" for name, value in lines.items() if value)])
    document = {
        "kind": KIND,
        "outcome": ended.outcome,
        "subject": subject,
        **facts,
        "status": status,
        "figures": shown,
        "dagster_run_id": ended.dagster_run_id,
        "link": link,
    }
    return Message(subject, text, document)


def _clean(value: Any, secrets: tuple[str, ...]) -> Any:
    return scrub(value, secrets)[:MAX_TEXT] if isinstance(value, str) else value


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1] + "…"


def _what(facts: Mapping[str, Any]) -> str:
    try:
        key = CellKey.parse(facts["cell_key"] or "")
    except CellError:
        return facts["cell_key"] or "a run of no known cell"
    return f"{key.model} on {key.instance} with {key.engine} {key.engine_version}, {key.workload}"


def _why(facts: Mapping[str, Any]) -> str | None:
    text, code = facts["failure_text"], facts["failure_code"]
    return f"{text} ({code})" if text and code else text or code


def _standing(facts: Mapping[str, Any]) -> str | None:
    if facts["origin"] in (None, "measured"):
        return None
    return f"{facts['origin']}, never ranked"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
