"""What every request meets first: bounds on size and rate; and the security headers of every answer."""

from __future__ import annotations

import json
import threading
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everlearn.server.settings import Settings

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Bounds:
    """Refuses requests that are too large or too many, and sets the security headers, before anything is parsed."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = self.settings.max_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            return await _answer(send, 413, f"the request is larger than {limit:,} bytes")
        wait = self._wait((scope.get("client") or ("unknown",))[0])
        if wait > 0:
            return await _answer(
                send, 429, f"more than {self.settings.rate} requests a minute; wait {wait:.0f} s", wait
            )
        came, begun = 0, False

        async def bounded() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                raise _TooLarge
            return message

        async def adorned(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if came > limit:  # whatever the parser made of its input breaking off
                    message["status"] = 413
                own = {name for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self.app(scope, bounded, adorned)
        except _TooLarge:
            if not begun:
                await _answer(send, 413, f"the request is larger than {limit:,} bytes")

    def _wait(self, client: str) -> float:
        """Seconds until this client may ask again: a bucket of a minute's requests that refills steadily."""
        rate = self.settings.rate
        if rate <= 0:
            return 0.0
        now = time.monotonic()
        with self._lock:
            if len(self._tokens) > 10_000:
                self._tokens = {c: (n, at) for c, (n, at) in self._tokens.items() if now - at < 60}
            left, at = self._tokens.get(client, (float(rate), now))
            left = min(float(rate), left + (now - at) * rate / 60)
            if left < 1:
                self._tokens[client] = left, now
                return max(1.0, (1 - left) * 60 / rate)
            self._tokens[client] = left - 1, now
            return 0.0


class _TooLarge(Exception):
    pass


async def _answer(send: Send, status: int, line: str, wait: float | None = None) -> None:
    headers = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
    if wait is not None:
        headers.append((b"retry-after", str(int(wait) + 1).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": line}).encode()})
