"""A model as the hub has it, in the columns of the ``models`` table, and where that contradicts the packaged row.

Belongs here: putting the hub's documents together, the comparison, the row that sizing can use.
Does not belong here: the requests (``hub``), the meaning of single fields (``config``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.models import hub, parameters
from accelbench_assets.models.config import ModelConfig, read_config
from accelbench_assets.models.facts import SAME
from accelbench_assets.models.hub import HUB_URL, TIMEOUT_S, HubDocuments
from accelbench_assets.models.quantization import NONE
from partitions.rows import ModelRow

CLOSE = 0.01
"""Sizes that differ by less than this share do not contradict each other: a packaged one may be a count times 2."""
_EXACT = (
    *("architecture", "layers", "hidden_size", "attention_heads", "kv_heads", "head_dim", "attention_kind"),
    *("sliding_window", "experts", "experts_per_token", "vocab_size", "max_position_embeddings", "dtype"),
    *("quantization", "kv_bytes_per_token", "gated", "license"),
)
_UNKNOWN_ARCHITECTURE = (
    "the architecture {name} is not known here: its parameters are the checkpoint's count, and attention is read off "
    "the names of fields; check that the engine supports it before renting anything"
)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One field that the hub and the package state differently."""

    subject: str
    field: str
    live: Any
    packaged: Any

    def __str__(self) -> str:
        return f"{self.subject}: {self.field} is {self.live} on the hub and {self.packaged} in the package"


@dataclass(frozen=True, slots=True)
class LiveModel:
    """One model of the hub. ``parameters`` and ``active_parameters`` null where they cannot be told; ``notes`` say
    what was derived, is missing, or is not known here.
    """

    documents: HubDocuments
    config: ModelConfig
    parameters: int | None
    active_parameters: int | None
    fetched_at: datetime
    notes: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """The id on the hub, spelt as there."""
        return self.documents.model_id

    def record(self) -> dict[str, Any]:
        """A row of the table ``models``."""
        config, experts = self.config, self.config.experts
        values = {
            "model_id": self.model_id,
            "architecture": config.architecture,
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "layers": config.layers.total,
            "hidden_size": config.hidden_size,
            "attention_heads": config.attention_heads,
            "kv_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "attention_kind": config.attention_kind,
            "sliding_window": config.layers.window_tokens,
            "experts": experts.count if experts else None,
            "experts_per_token": experts.per_token if experts else None,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "dtype": config.dtype or self.documents.weights.dtype,
            "quantization": config.quantization.scheme,
            "weight_bytes": self.documents.weights.bytes,
            "kv_bytes_per_token": config.kv_bytes_per_token,
            "gated": self.documents.gated,
            "license": self.documents.license,
        }
        return {
            **{name: values[name] for name in SAME},
            "revision": self.documents.commit,
            "fetched_at": self.fetched_at,
            "source": f"{self.documents.endpoint} at the commit: config.json, "
            f"weights by {self.documents.weights.how}",
        }

    def row(self) -> ModelRow:
        """The model as a row that cells and sizing can use. Raises ``UsageError`` naming what keeps it from that."""
        found, config = self.record(), self.config
        if config.layers.state or config.layers.unknown:
            raise UsageError(
                f"{self.model_id} has layers that sizing does not cover: {config.layers}.",
                hint="Measure it, or size a model whose layers all attend.",
            )
        width = config.experts.width if config.experts else config.intermediate_size
        needed = {
            **{name: found[name] for name in SAME if name not in _MAY_BE_NULL},
            "intermediate_size": width,
        }
        missing = sorted(name for name, value in needed.items() if value is None)
        if missing:
            raise UsageError(
                f"What the hub has of {self.model_id} is too little to size it: no {', '.join(missing)}.",
                hint="Add a row to partitions/models.yaml with the facts and their source.",
            )
        fields = {name: found[name] for name in SAME if name != "kv_bytes_per_token"}
        notes = self.notes
        if fields["dtype"] is None:
            fields["dtype"] = "bf16"
            notes = (*notes, "no type is stated: 16 bits are assumed")
        return ModelRow(
            **{**fields, "license": fields["license"] or "unknown"},
            slug=slug_of(self.model_id),
            revision=self.documents.commit[:7],
            commit=self.documents.commit,
            full_attention_layers=config.layers.full if config.layers.full != config.layers.total else None,
            intermediate_size=int(width or 0),
            weights_are=_WEIGHTS_ARE.get(self.documents.weights.how, "index"),
            source="hub",
            note="; ".join(notes),
        )


_MAY_BE_NULL = (
    "dtype",
    "sliding_window",
    "experts",
    "experts_per_token",
    "gated",
    "license",
    "kv_bytes_per_token",
)


_WEIGHTS_ARE = {"file": "file", "parameters": "parameters"}  # a header is as good as an index


def slug_of(model_id: str) -> str:
    """The name part of an id as a slug: lower case, a-z, 0-9, '.' and '-'."""
    return re.sub(r"[^a-z0-9.-]+", "-", model_id.split("/")[-1].lower()).strip("-.") or "model"


def look_up(
    model_id: str, *, hub_url: str = HUB_URL, revision: str | None = None, timeout_s: float = TIMEOUT_S
) -> LiveModel:
    """The facts of *model_id* as the hub has them at *revision*. Raises ``HubError``, ``ModelConfigError``."""
    documents = hub.fetch(model_id, hub_url=hub_url, revision=revision, timeout_s=timeout_s)
    return assemble(documents, datetime.now(UTC))


def assemble(documents: HubDocuments, fetched_at: datetime) -> LiveModel:
    """The facts that *documents* hold. Raises ``ModelConfigError``."""
    config = read_config(documents.config, documents.model_id)
    notes = [*config.notes, *documents.notes]
    counted = parameters.count(config, documents.config)
    held = documents.weights.parameters
    total = counted.total if counted else held
    active = counted.active if counted else None
    if counted is None:
        if not parameters.known(config) and config.architecture is not None:
            notes.append(_UNKNOWN_ARCHITECTURE.format(name=config.architecture))
        left = parameters.undrawn(config)
        active = total - left if total is not None and left is not None and total > left else None
    elif held is not None and config.quantization.scheme == NONE and _apart(held, counted.total):
        notes.append(
            f"the checkpoint holds {held:,} parameters and {counted.total:,} are served: "
            "it has parts that are not, or a tied table twice"
        )
    return LiveModel(documents, config, total, active, fetched_at, tuple(notes))


def _apart(one: float, other: float) -> bool:
    return abs(one - other) > CLOSE * max(abs(one), abs(other))


def contradictions(live: LiveModel, row: ModelRow) -> list[Contradiction]:
    """Fields that both state and state differently; sizes within ``CLOSE`` agree."""
    found = live.record()
    different = []
    for name in _EXACT:
        here, there = found[name], getattr(row, name)
        if name == "sliding_window" and live.config.layers.window == 0:
            here = None
        if name == "dtype" and row.quantization != NONE:
            continue  # quantised checkpoints state the type they compute in, or none
        if here is None or there is None or _same(here, there):
            continue
        different.append(Contradiction(row.slug, name, here, there))
    for name, allowance in (
        ("parameters", 0),
        # Published counts of active parameters often leave the input table out.
        ("active_parameters", row.vocab_size * row.hidden_size),
        ("weight_bytes", 0),
    ):
        here, there = found[name], getattr(row, name)
        if here is not None and _apart(here, there) and abs(here - there) > 1.05 * allowance:
            different.append(Contradiction(row.slug, name, here, there))
    return different


def _same(one: Any, other: Any) -> bool:
    return one.lower() == other.lower() if isinstance(one, str) and isinstance(other, str) else one == other


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a round over the packaged models gave: rows by slug, why others stayed packaged, what contradicts."""

    models: Mapping[str, LiveModel]
    failed: Mapping[str, str]
    contradictions: tuple[Contradiction, ...]


def refresh(
    rows: Iterable[ModelRow],
    *,
    hub_url: str = HUB_URL,
    timeout_s: float = TIMEOUT_S,
    ask: Callable[..., LiveModel] = look_up,
) -> Refreshed:
    """Ask the hub for each of *rows* at its pinned commit. A model that fails keeps its packaged facts, with the
    reason; when the hub itself does not answer, the rest is not asked.
    """
    asked = list(rows)
    found, failed = dict[str, LiveModel](), dict[str, str]()
    silent: str | None = None
    for row in asked:
        if row.commit is None:
            failed[row.slug] = "no commit is pinned: its packaged facts are of a file, not of a repository"
            continue
        if silent is not None:
            failed[row.slug] = silent
            continue
        try:
            found[row.slug] = ask(row.model_id, hub_url=hub_url, revision=row.commit, timeout_s=timeout_s)
        except AccelBenchError as error:
            failed[row.slug] = str(error)
            if getattr(error, "code", None) in ("network", "setting", "token"):
                silent = f"not asked, for: {error.message}"
    by_slug = {row.slug: row for row in asked}
    different = [one for slug, live in found.items() for one in contradictions(live, by_slug[slug])]
    return Refreshed(found, failed, tuple(different))
