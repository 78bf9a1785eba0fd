"""Getting public files by HTTP: bounded waits, bounded sizes, lines as they come.

Belongs here: one GET and its errors. Does not belong here: what is in a file (``bulk``).
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from accelbench_assets.pricing.aws.reading import PriceSourceError
from accelbench_assets.scrub import scrub

INDEX_BYTES = 64 * 1024 * 1024
FILE_BYTES = 2 * 1024**3
FILE_S = 1800.0
"""A region's file may take this long in all; each wait for bytes is bounded by itself."""


class Download:
    """A file being received: iterate over its lines once. Raises ``PriceSourceError`` wherever it breaks."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s, self.received = url, timeout_s, 0
        self._response: Any = None

    def __enter__(self) -> Self:
        if not self.url.startswith(("https://", "http://")):
            raise PriceSourceError(f"{self.url} is not an address of a price list.")
        request = urllib.request.Request(self.url, headers={"User-Agent": "accelbench"})  # noqa: S310 - checked above
        try:
            self._response = urllib.request.urlopen(request, timeout=self.timeout_s)  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            raise PriceSourceError(f"{self.url} answered {error.code}.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        end = time.monotonic() + FILE_S
        try:
            for line in self._response:
                self.received += len(line)
                if self.received > FILE_BYTES or time.monotonic() > end:
                    raise PriceSourceError(f"{self.url} is larger or slower than any price list: given up.")
                yield line
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from None
        if self._response.length:  # fewer bytes than were announced
            raise PriceSourceError(f"{self.url} broke off.")

    def read(self, limit: int) -> bytes:
        """The whole file, of at most *limit* bytes."""
        try:
            content: bytes = self._response.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from None
        if len(content) > limit:
            raise PriceSourceError(f"{self.url} has more than {limit} bytes.")
        if self._response.length:
            raise PriceSourceError(f"{self.url} broke off.")
        return content

    def _broken(self, error: Exception) -> PriceSourceError:
        reason = getattr(error, "reason", None) or error
        return PriceSourceError(
            f"{self.url} does not answer: {scrub(str(reason)) or type(reason).__name__}.",
            hint="Is the network open to it? With AWS credentials `--source api` asks the Pricing API instead.",
        )


def get_json(url: str, timeout_s: float) -> dict[str, Any]:
    """A small JSON object at *url*. Raises ``PriceSourceError``."""
    with Download(url, timeout_s) as file:
        content = file.read(INDEX_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PriceSourceError(f"{url} is not a JSON object.")
    return found
