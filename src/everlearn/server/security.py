"""Who may do what: tokens with roles, signed sessions, cross-site requests refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request

from everlearn.errors import RunError, SettingError
from everlearn.runs import audit_log
from everlearn.runs.database import Database
from everlearn.server.settings import LOOPBACK, Settings

ROLES = ("viewer", "reviewer", "admin")
"""Each may do what those before it may: look and predict; give verdicts; roll back, remove, forget."""

COOKIE = "everlearn"
SESSION_SECONDS = 12 * 3600


class Refused(Exception):
    """A request that is not allowed, or not now: status, one line, and after how many seconds to ask again."""

    def __init__(self, status: int, line: str, wait: int | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.wait = status, line, wait


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
    """Tokens of a run: the journal holds their hashes, names and roles; what is known is a second old at most."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._known: dict[str, Actor] = {}
        self._until = 0.0

    def create(self, name: str, role: str) -> str:
        """Make a token and return it; only its hash is kept.

        Examples
        --------
        >>> import tempfile
        >>> from everlearn.runs import Journal
        >>> tokens = Tokens(Journal(Path(tempfile.mkdtemp()) / "journal.sqlite").db)
        >>> token = tokens.create("dr kim", "reviewer")
        >>> tokens.actor(token).role, tokens.actor("guessed")
        ('reviewer', None)
        >>> tokens.revoke("dr kim"), tokens.all()
        (1, {})
        """
        if role not in ROLES:
            raise SettingError(f"role is {role!r}; expected one of {', '.join(ROLES)}")
        if not (0 < len(name) <= 100 and name.isprintable()):
            raise SettingError(f"name is {name!r}; expected 1 to 100 printable characters")
        token = "ev_" + secrets.token_urlsafe(32)
        with self.db.transaction() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?)", _hash(token), name, role, time.time())
            audit_log.append(db, "command line", "token", {"of": name, "role": role})
        self._until = 0.0
        return token

    def revoke(self, name: str) -> int:
        """Take back every token of a name; returns how many there were."""
        with self.db.transaction() as db:
            gone = len(db.rows("DELETE FROM tokens WHERE name = ? RETURNING hash", name))
            audit_log.append(db, "command line", "tokens revoked", {"of": name, "tokens": gone})
        self._until = 0.0
        return gone

    def all(self) -> dict[str, Actor]:
        """Who they belong to, by hash."""
        if time.monotonic() > self._until:
            rows = self.db.rows("SELECT hash, name, role FROM tokens")
            self._known = {row["hash"]: Actor(row["name"], row["role"]) for row in rows}
            self._until = time.monotonic() + 1.0
        return self._known

    def actor(self, token: str) -> Actor | None:
        """Whose token it is, or None."""
        return self.all().get(_hash(token))


class Gate:
    """Finds out who asks, and refuses what is not allowed."""

    def __init__(self, settings: Settings, tokens: Tokens, secret: bytes) -> None:
        self.settings, self.tokens, self.secret = settings, tokens, secret

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
        found = self.tokens.all().get(content["token"])
        return Actor(found.name, found.role, content["id"]) if found else None

    def begin(self, token: str | None) -> str:
        """The cookie of a new session."""
        content = {
            "id": secrets.token_hex(12),
            "until": time.time() + SESSION_SECONDS,
            "token": _hash(token) if token else None,
        }
        text = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
        return f"{text}.{self._sign('session', text)}"

    def begin_local(self) -> tuple[str, Actor]:
        """The cookie of a new session without a token, and who it makes of the one who asks."""
        cookie = self.begin(None)
        content = self._opened(cookie)
        assert content is not None
        return cookie, Actor("local", "admin", content["id"])

    def csrf(self, session: str) -> str:
        """The word that a form of this session must bring."""
        return self._sign("csrf", session)

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
        if not text or not hmac.compare_digest(signature.encode(), self._sign("session", text).encode()):
            return None
        try:
            return dict(json.loads(base64.urlsafe_b64decode(text)))
        except (ValueError, TypeError):
            return None

    def _sign(self, purpose: str, text: str) -> str:
        """What is signed for one purpose holds for no other."""
        return hmac.new(self.secret, f"{purpose} {text}".encode(), hashlib.sha256).hexdigest()


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


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _name(host: str) -> str:
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]
