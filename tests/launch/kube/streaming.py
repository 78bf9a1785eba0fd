"""Answers that go on: watches and followed logs.

Belongs here: sending pieces as they come, breaking off. Does not belong here: what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web


async def send_stream(
    request: web.Request, pieces: AsyncIterator[bytes], content_type: str, cut_after_s: float | None
) -> web.StreamResponse:
    """Send *pieces* as chunks; after *cut_after_s* the connection breaks without the final chunk."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)

    async def send() -> None:
        async for piece in pieces:
            await response.write(piece)

    with contextlib.suppress(ConnectionError):
        try:
            async with asyncio.timeout(cut_after_s):
                await send()
            if cut_after_s is None:
                await response.write_eof()
                return response
        except TimeoutError:
            pass
        if request.transport is not None:
            request.transport.abort()
    return response
