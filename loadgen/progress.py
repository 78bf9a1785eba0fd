"""What the generator says while it runs, on standard output.

Belongs here: JSON lines for a parent process, one line for a person. A reader that does not read must never
stop the loop, so a progress line is dropped when the pipe is full; other events wait.
Does not belong here: errors (standard error, written by ``__main__``), the record (``shard.json``).
"""

from __future__ import annotations

import json
import select
import sys
from typing import Any


class Progress:
    """``json``: one object a line. ``human``: one line rewritten on a terminal, step ends as lines.
    ``quiet``: nothing."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._terminal = mode == "human" and sys.stdout.isatty()
        self._poll: select.poll | None = None
        if mode == "json":
            self._poll = select.poll()
            try:
                self._poll.register(sys.stdout.fileno(), select.POLLOUT)
            except (OSError, ValueError):  # standard output is not a file
                self._poll = None

    def event(self, event: str, **fields: Any) -> None:
        """Say *event*; known fields are step_index, kind, phase, elapsed_s, planned_s, load_kind, load_value, sent,
        completed, failed, in_flight, events_per_s, output_tokens, message."""
        try:
            if self.mode == "json":
                if event == "progress" and self._poll is not None and not self._poll.poll(0):
                    return
                print(json.dumps({"event": event, **fields}), flush=True)
            elif self.mode == "human":
                self._human(event, fields)
        except BrokenPipeError:
            self.mode = "quiet"  # nobody listens any more; the samples still count

    def _human(self, event: str, fields: dict[str, Any]) -> None:
        if event in ("calibrated", "warning", "point", "cause", "done"):
            text = f"{'warning: ' if event == 'warning' else ''}{fields.get('message', event)}"
            print(f"\r{text}\033[K" if self._terminal else text, flush=True)
        elif event == "step_end" or (event == "progress" and self._terminal):
            text = (
                f"step {fields['step_index']} {fields['phase']:<7} "
                f"{fields['elapsed_s']:.0f}/{fields['planned_s']:.0f} s, "
                f"{fields['sent']} sent, {fields['completed']} done, {fields['failed']} failed"
            )
            if event == "progress" and fields.get("events_per_s") is not None:
                text += f", {fields['in_flight']} in flight, {fields['events_per_s']:,.0f} events/s"
            elif event == "step_end" and fields.get("output_tokens") and fields["elapsed_s"] > 0:
                text += f", {fields['output_tokens'] / fields['elapsed_s']:,.0f} tokens/s"
            last = event == "step_end"
            print(f"\r{text}\033[K" if self._terminal else text, end="\n" if last else "", flush=True)
