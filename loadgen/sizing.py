"""How many words make so many tokens, once the server has been asked.

Belongs here: the figures of a calibration and the arithmetic on them. Does not belong here: asking
(``calibrate``), text (``contents``).
"""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.prompts import NONCE_WORDS


@dataclass(frozen=True, slots=True)
class Sizing:
    """Tokens a word of each text, the chat template's tokens, and a correction in words from a checking
    request. The defaults stand in where a server counts no tokens."""

    random: float = 1.0
    natural: float = 1.0
    template: float = 0.0
    extra_words: int = 0

    def random_words(self, tokens: float) -> int:
        """Words of a random prompt of *tokens*, template included; at least 1."""
        return max(1, round((tokens - self.template) / self.random) + self.extra_words)

    def natural_words(self, tokens: float, *, nonce: bool) -> int:
        """Words of natural text in a prompt of *tokens*, template and (with *nonce*) nonce included; at least
        1."""
        taken = self.template + (NONCE_WORDS * self.random if nonce else 0.0)
        return max(1, round((tokens - taken) / self.natural) + self.extra_words)
