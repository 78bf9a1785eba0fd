"""How many layers keep what: the whole context, a window of it, a state of fixed size, nothing.

Belongs here: reading that from the many ways configurations say it. Does not belong here: bytes (``config``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from accelbench_assets.models.fields import Fields

FULL, WINDOW, STATE, BOTH, NOTHING = "full", "window", "state", "both", "nothing"
KINDS = {
    **dict.fromkeys(("full_attention", "attention", "full", "global", "global_attention"), FULL),
    "indexed_attention": FULL,
    **dict.fromkeys(
        ("sliding_attention", "chunked_attention", "local_attention", "sliding", "local"), WINDOW
    ),
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "recurrent", "conv", "ssm"), STATE),
    "hybrid": BOTH,
    **dict.fromkeys(("mlp", "moe"), NOTHING),
}
"""Names of ``layer_types`` and its relatives."""
_LETTERS = {"*": FULL, "M": STATE, "-": NOTHING, "E": NOTHING}  # Nemotron-H's pattern
PURE_STATE = ("mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv7", "rwkv5", "rwkv6")
_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers by what they keep. ``full + window + state + nothing + unknown`` can exceed ``total`` only where a layer
    is both attention and state space. ``window_tokens`` null = no windowed layer.
    """

    total: int
    full: int
    window: int = 0
    state: int = 0
    nothing: int = 0
    window_tokens: int | None = None
    unknown: tuple[tuple[str, int], ...] = ()
    sharing: int = 0

    @property
    def attends(self) -> bool:
        """Whether any layer keeps keys and values that are counted."""
        return self.full + self.window > 0

    def __str__(self) -> str:
        parts = [
            (self.full, "full"),
            (self.window, f"window of {self.window_tokens:,}" if self.window_tokens else "window"),
            (self.state, "state of fixed size"),
            (self.nothing, "no cache"),
            *((count, f"{kind} (not known here)") for kind, count in self.unknown),
        ]
        return ", ".join(f"{count} {name}" for count, name in parts if count) or "none"


def read_layers(text: Fields, total: int, context: int | None) -> Layers:
    """The layers of the text model, of which there are *total*. A window as wide as *context* is no window."""
    if total > _MOST_LAYERS:
        text.note(f"{total} layers: taken as all alike")
        return Layers(total, total)
    kinds = list(_kinds(text, total))
    named = Counter(kinds)
    unknown = tuple(sorted((k, n) for k, n in named.items() if k not in (FULL, WINDOW, STATE, BOTH, NOTHING)))
    for kind, _ in unknown:
        text.note(f"layers of the kind {kind!r} are not known here: what they keep is not counted")
    full, window = named[FULL] + named[BOTH], named[WINDOW]
    tokens = text.count("attention_chunk_size", "sliding_window", "attention_window_size") if window else None
    if window and (tokens is None or (context is not None and tokens >= context)):
        if tokens is not None:
            text.note(f"the window of {tokens:,} is as wide as the context: those layers keep everything")
        full, window, tokens = full + window, 0, None
    sharing = min(text.whole("num_kv_shared_layers") or 0, total)
    if sharing:
        text.note(f"the last {sharing} layers use the keys and values of earlier ones")
        kept = Counter(kinds[: total - sharing])
        full, window = (
            kept[FULL] + kept[BOTH] + (0 if tokens else kept[WINDOW]),
            kept[WINDOW] if tokens else 0,
        )
    return Layers(
        total=total,
        full=full,
        window=window,
        state=named[STATE] + named[BOTH],
        nothing=named[NOTHING],
        window_tokens=tokens,
        unknown=unknown,
        sharing=sharing,
    )


def _kinds(text: Fields, total: int) -> Sequence[str]:
    """One kind a layer."""
    for name in ("layer_types", "layers_block_type", "block_types", "block_type"):
        named = text.words(name)
        if named:
            if len(named) < total and name.startswith("block"):  # a pattern that repeats
                named = tuple(named[i % len(named)] for i in range(total))
            if len(named) != total:
                text.note(f"{name} names {len(named)} layers of {total}: the rest is taken as full attention")
                named = (*named[:total], *(("full_attention",) * (total - len(named))))
            return [KINDS.get(one, one[:40]) for one in named]
    pattern = text.text("hybrid_override_pattern")
    if pattern:
        letters = [one for one in pattern if one != "|"]
        if len(letters) == total:
            return [_LETTERS.get(one, one) for one in letters]
        text.note(f"hybrid_override_pattern has {len(letters)} letters for {total} layers: not used")
    if text.model_type in PURE_STATE:
        return [STATE] * total
    listed = text.numbers("attn_layer_indices")
    if listed is not None:
        attending = frozenset(listed)
        return [FULL if i in attending else STATE for i in range(total)]
    inner = text.inner("linear_attn_config").numbers("full_attn_layers")
    if inner is not None:  # counted from 1
        attending = frozenset(inner)
        return [FULL if i + 1 in attending else STATE for i in range(total)]
    switched = text.numbers("attn_type_list")
    if switched is not None and len(switched) == total:
        return [FULL if one else STATE for one in switched]
    period = text.count("attn_layer_period")
    if period:
        offset = text.whole("attn_layer_offset") or 0
        return [FULL if i % period == offset else STATE for i in range(total)]
    interval = text.count("full_attention_interval")
    if interval:
        return [STATE if (i + 1) % interval else FULL for i in range(total)]
    return _windows(text, total)


def _windows(text: Fields, total: int) -> Sequence[str]:
    """Attention layers only: which of them have a window."""
    if text.count("attention_chunk_size"):
        rope = text.numbers("no_rope_layers")  # 1 = has rotary positions, and so is chunked
        if rope and len(rope) == total:
            return [WINDOW if one else FULL for one in rope]
        every = text.count("no_rope_layer_interval") or 4
        return [WINDOW if (i + 1) % every else FULL for i in range(total)]
    if not text.count("sliding_window") or text.flag("use_sliding_window") is False:
        return [FULL] * total
    pattern = text.count("sliding_window_pattern", "_sliding_window_pattern")
    if pattern:
        # Of every *pattern* layers the last is full: 5 to 1 in Gemma 3, alternating in Gemma 2 and gpt-oss.
        return [WINDOW if (i + 1) % pattern else FULL for i in range(total)]
    first = text.whole("max_window_layers")
    if first is not None and text.flag("use_sliding_window"):
        return [WINDOW if i >= first else FULL for i in range(total)]
    if text.model_type in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe") and not text.flag(
        "use_sliding_window"
    ):
        return [FULL] * total
    return [WINDOW] * total
