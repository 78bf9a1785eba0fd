"""How the ground-truth server behaves: its options, its faults, its freeze.

Belongs here: the command line and which fault a request meets. Does not belong here: sockets (``server``),
bytes (``answers``).
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field

FAULTS = ("500", "reset", "hang", "error_event")


@dataclass(slots=True)
class Behaviour:
    """Times in ms. ``slots`` 0 = no limit. ``freeze_s`` (start, duration) counts from the first completion
    request."""

    ttft_ms: float = 50.0
    gap_ms: float = 10.0
    tokens: int = 64
    tokens_per_chunk: int = 1
    slots: int = 0
    chunk_layout: str = "role-first"
    usage: str = "final"
    connection: str = "keep-alive"
    faults: dict[str, float] = field(default_factory=dict)
    freeze_s: tuple[float, float] | None = None
    seed: int = 0
    model: str = "truth"
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def fault(self) -> str | None:
        """The fault of the next request; drawn in order of arrival from the seed."""
        if not self.faults:
            return None
        at = self._random.random()
        for name, share in self.faults.items():
            if at < share:
                return name
            at -= share
        return None


def parse_faults(text: str) -> dict[str, float]:
    """``500:0.03,reset:0.02`` to shares; raises ``argparse.ArgumentTypeError`` naming the part."""
    result: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.partition(":")
        try:
            result[name] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not name:share") from None
        if name not in FAULTS or not 0 <= result[name] <= 1:
            raise argparse.ArgumentTypeError(
                f"{part!r}: a fault is one of {', '.join(FAULTS)}, its share 0..1"
            )
    if sum(result.values()) > 1:
        raise argparse.ArgumentTypeError("the shares exceed 1")
    return result


def parse_freeze(text: str) -> tuple[float, float]:
    """``start:duration`` in seconds."""
    try:
        start, duration = map(float, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not start:duration") from None
    return start, duration


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m loadgen truth``."""
    result = argparse.ArgumentParser(prog="python -m loadgen truth", description="The ground-truth server.")
    add = result.add_argument
    add("--host", default="127.0.0.1")
    add(
        "--port",
        type=int,
        default=0,
        help="0 takes a free one; the first line of output is JSON and names it",
    )
    add(
        "--slots",
        type=int,
        default=0,
        help="requests served at a time, first come first served; 0 = no limit",
    )
    add("--ttft-ms", type=float, default=50.0)
    add("--gap-ms", type=float, default=10.0, help="between tokens; a chunk of k tokens takes k gaps")
    add("--tokens", type=int, default=64, help="answer length where the request sets none")
    add("--tokens-per-chunk", type=int, default=1)
    add("--chunk-layout", choices=("role-first", "plain"), default="role-first")
    add("--usage", choices=("final", "every", "never"), default="final")
    add(
        "--connection",
        choices=("keep-alive", "close", "drop"),
        default="keep-alive",
        help="drop: announce keep-alive, close",
    )
    add("--faults", type=parse_faults, default={}, metavar="500:0.03,reset:0.02,hang:0.01,error_event:0.01")
    add("--freeze", type=parse_freeze, default=None, metavar="START:SECONDS", help="say nothing for a while")
    add("--seed", type=int, default=0, help="of the faults")
    add("--model", default="truth")
    add("--log", metavar="FILE", help="JSON lines, one a request, CLOCK_MONOTONIC nanoseconds")
    add("--exit-with-parent", action="store_true", help="exit when standard input ends")
    return result
