"""A configuration document read by field: names that vary, values that may be anything, and what is left out.

Belongs here: typed getters over ``config.json`` that never trust it, the nested part that describes the text model,
the values a model type has where its file leaves a field out. Does not belong here: what the fields mean together.

Files of the hub leave out what equals the default of the configuration class: Gemma 3's state neither heads nor head
width, and hidden size over heads would be wrong. The defaults below are those of transformers 5.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 10**16
"""No count in a configuration is larger; one that is was not meant as a count."""
NESTED = (
    *(
        "text_config",
        "llm_config",
        "language_config",
        "language_model_config",
        "text_model",
        "thinker_config",
    ),
    "decoder",
)
_DEPTH = 4

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "deepseek_v3": {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192},
    "gemma2": {
        **{"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208},
        **{"sliding_window": 4096, "sliding_window_pattern": 6, "max_position_embeddings": 131072},
    },
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128, "sliding_window_pattern": 2},
    "jamba": {
        **{
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        **{"num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 2},
    },
    "llama4_text": {
        **{
            "attention_chunk_size": 8192,
            "no_rope_layer_interval": 4,
            "head_dim": 128,
            "num_key_value_heads": 8,
        },
        **{"num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
        **{"vocab_size": 202048, "num_attention_heads": 40, "max_position_embeddings": 131072},
    },
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "olmo3": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8},
    "qwen3_next": {"full_attention_interval": 4, "head_dim": 256, "num_key_value_heads": 2},
}


def plain_count(value: object) -> int | None:
    """*value* as a whole number from 0 to ``MOST``; ``None`` for anything else, such as true, -1, "32" or 1.5."""
    if type(value) is float and value.is_integer() and 0 <= value <= MOST:
        return int(value)
    return value if type(value) is int and 0 <= value <= MOST else None


@dataclass(slots=True)
class Fields:
    """One level of a configuration. ``notes`` collects what a reader should know of how a value was found."""

    values: Mapping[str, Any]
    model_type: str | None = None
    notes: list[str] = field(default_factory=list)

    def raw(self, name: str) -> Any:
        """The value as it stands, the model type's default where the field is left out, else ``None``."""
        if name in self.values:
            return self.values[name]
        default = DEFAULTS.get(self.model_type or "", {}).get(name)
        if default is not None:
            self.note(f"{name} = {default} is the default of {self.model_type}; the file leaves it out")
        return default

    def count(self, *names: str) -> int | None:
        """The first of *names* that holds a number above 0; anything else that stands there is noted and skipped."""
        for name in names:
            value = self.raw(name)
            found = plain_count(value)
            if found:
                return found
            if value is not None and found is None:
                self.note(f"{name} is {str(value)[:40]!r}, which is no count: ignored")
        return None

    def whole(self, name: str) -> int | None:
        """A number of 0 or above."""
        return plain_count(self.raw(name))

    def flag(self, name: str) -> bool | None:
        """True, false, or ``None`` where neither stands there."""
        value = self.raw(name)
        return value if type(value) is bool else None

    def text(self, name: str) -> str | None:
        """A text that is not empty, at most 200 characters."""
        value = self.raw(name)
        return value[:200] if isinstance(value, str) and value else None

    def words(self, name: str) -> tuple[str, ...] | None:
        """A list of texts; ``None`` where it is anything else or empty."""
        value = self.raw(name)
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return tuple(value)
        return None

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """A list of numbers of 0 or above; ``None`` where it is anything else."""
        value = self.raw(name)
        if not isinstance(value, list):
            return None
        found = [plain_count(one) for one in value]
        return None if None in found else tuple(one for one in found if one is not None)

    def inner(self, name: str) -> Fields:
        """An object inside; an empty one where there is none. Shares the notes."""
        value = self.values.get(name)
        return Fields(value if isinstance(value, Mapping) else {}, None, self.notes)

    def note(self, text: str) -> None:
        """Keep *text* once."""
        if text not in self.notes:
            self.notes.append(text)


def outer_and_text(document: Mapping[str, Any]) -> tuple[Fields, Fields]:
    """The document's own level, and the level that describes the text model: the same, or one nested in it."""
    notes: list[str] = []
    outer = Fields(document, _type(document), notes)
    level = document
    for _ in range(_DEPTH):
        if any(name in level for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers")):
            break
        inner = next((level[name] for name in NESTED if isinstance(level.get(name), Mapping)), None)
        if inner is None:
            break
        level = inner
    return outer, Fields(level, _type(level) or outer.model_type, notes)


def _type(level: Mapping[str, Any]) -> str | None:
    found = level.get("model_type")
    return found if isinstance(found, str) and found else None
