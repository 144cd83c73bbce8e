"""Who may do what: tokens with roles, signed sessions, cross-site requests refused, sizes and rates bounded."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everlearn.errors import RunError, SettingError
from everlearn.server.settings import LOOPBACK, Settings

ROLES = ("viewer", "reviewer", "admin")
"""Each may do what those before it may: look and predict; give verdicts; roll back, remove, forget."""

COOKIE = "everlearn"
SESSION_SECONDS = 12 * 3600
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


class Refused(Exception):
    """A request that is not allowed: status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


@dataclass(frozen=True)
class Actor:
    """Who asks, and in which role; ``session`` is the session's id where a browser asks."""

    name: str
    role: str
    session: str | None = None

    def needs(self, role: str) -> None:
        """Refuse an actor of a lower role."""
        if ROLES.index(self.role) < ROLES.index(role):
            raise Refused(403, f"{self.name} is a {self.role}; this asks for the role {role}")


class Tokens:
    """Tokens of a run: ``tokens.json`` holds their hashes, names and roles, and is read anew when it changes."""

    def __init__(self, run: Path) -> None:
        self.file = run / "tokens.json"
        self._known: dict[str, dict[str, str]] = {}
        self._at = -1.0

    def create(self, name: str, role: str) -> str:
        """Make a token and return it; only its hash is kept.

        Examples
        --------
        >>> import tempfile
        >>> tokens = Tokens(Path(tempfile.mkdtemp()))
        >>> token = tokens.create("dr kim", "reviewer")
        >>> tokens.actor(token).role, tokens.actor("guessed")
        ('reviewer', None)
        """
        if role not in ROLES:
            raise SettingError(f"role is {role!r}; expected one of {', '.join(ROLES)}")
        if not (0 < len(name) <= 100 and name.isprintable()):
            raise SettingError(f"name is {name!r}; expected 1 to 100 printable characters")
        token = "ev_" + secrets.token_urlsafe(32)
        write_secret(
            self.file, json.dumps(self.all() | {_hash(token): {"name": name, "role": role}}, indent=1).encode()
        )
        return token

    def all(self) -> dict[str, dict[str, str]]:
        """Name and role by hash."""
        try:
            at = self.file.stat().st_mtime_ns
            if at != self._at:
                self._known, self._at = json.loads(self.file.read_text(encoding="utf-8")), at
        except FileNotFoundError:
            self._known = {}
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.file}: {error}; remove it and make new tokens") from error
        return dict(self._known)

    def actor(self, token: str) -> Actor | None:
        """Whose token it is, or None."""
        found = self.all().get(_hash(token))
        return Actor(found["name"], found["role"]) if found else None

    def of_hash(self, value: str) -> Actor | None:
        """As `actor`, by the token's hash."""
        found = self.all().get(value)
        return Actor(found["name"], found["role"]) if found else None


class Gate:
    """Finds out who asks, and refuses what is not allowed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings.run)
        self.secret = secret(settings.run)

    def actor(self, request: Request) -> Actor:
        """Who asks; raises `Refused` where that stays unknown."""
        self.same_site(request)
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            found = self.tokens.actor(token.strip()) if scheme.lower() == "bearer" else None
            if found is None:
                raise Refused(401, "the token is not known; ask for one made with `everlearn token`")
            return found
        session = self.session(request)
        if session is not None:
            self._csrf(request, session)
            return session
        if self.settings.local:
            return Actor("local", "admin")
        raise Refused(401, "a token is asked for: send Authorization: Bearer TOKEN, or sign in on /login")

    def session(self, request: Request) -> Actor | None:
        """Whose session the cookie is, or None."""
        content = self._opened(request.cookies.get(COOKIE, ""))
        if content is None or content.get("until", 0) < time.time():
            return None
        if content.get("token") is None:
            return Actor("local", "admin", content["id"]) if self.settings.local else None
        found = self.tokens.of_hash(content["token"])
        return Actor(found.name, found.role, content["id"]) if found else None

    def begin(self, token: str | None) -> str:
        """The cookie of a new session."""
        content = {
            "id": secrets.token_hex(12),
            "until": time.time() + SESSION_SECONDS,
            "token": _hash(token) if token else None,
        }
        text = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
        return f"{text}.{self._sign(text)}"

    def begin_local(self) -> tuple[str, Actor]:
        """The cookie of a new session without a token, and who it makes of the one who asks."""
        cookie = self.begin(None)
        content = self._opened(cookie)
        assert content is not None
        return cookie, Actor("local", "admin", content["id"])

    def csrf(self, session: str) -> str:
        """The word that a form of this session must bring."""
        return self._sign(f"csrf {session}")

    def same_site(self, request: Request) -> None:
        """Refuse what comes by a foreign name of this server, and what another site has sent."""
        host = request.headers.get("host", "")
        if self.settings.local and _name(host) not in LOOPBACK:
            raise Refused(421, f"the host {host[:100]!r} is not this server's; open it by 127.0.0.1")
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        origin = request.headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refused(403, "requests from other sites are refused")

    def _csrf(self, request: Request, actor: Actor) -> None:
        assert actor.session is not None
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), self.csrf(actor.session).encode()):
            raise Refused(403, "the page is out of date; load it again")

    def _opened(self, cookie: str) -> dict[str, Any] | None:
        text, _, signature = cookie.rpartition(".")
        if not text or not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            return None
        return dict(json.loads(base64.urlsafe_b64decode(text)))

    def _sign(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


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


def secret(run: Path) -> bytes:
    """The run's secret, made when it is first asked for; it salts pseudonyms and signs sessions."""
    file = run / "secret"
    try:
        if not file.exists():
            write_secret(file, secrets.token_bytes(32))
        return file.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot use {file}: {error.strerror or error}; serving needs a directory it can write to"
        ) from error


def write_secret(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    beside.replace(file)


async def _answer(send: Send, status: int, line: str, wait: float | None = None) -> None:
    headers = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
    if wait is not None:
        headers.append((b"retry-after", str(int(wait) + 1).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": line}).encode()})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _name(host: str) -> str:
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
