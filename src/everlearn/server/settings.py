"""What a server was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """Settings of ``everlearn serve``.

    Parameters
    ----------
    run : Path
        The run's directory.
    cases : str, optional
        A source, or a folder of pictures without classes, for the worklist; by default that half of the run's own
        held-out samples that new versions are not checked with.
    host, port : str, int
        Where to listen. On a loopback address no token is asked for.
    learns : bool
        Whether this server starts the writer that learns; others only predict and take verdicts.
    rate : int
        Requests a minute and client; 0 for no limit, which is the default on loopback.
    max_bytes : int
        Largest request.
    margin : float
        By how much a new version may fall on the cases kept for checking.
    limit : int
        Cases on the worklist, at most.
    """

    run: Path
    cases: str | None = None
    host: str = "127.0.0.1"
    port: int = 8420
    learns: bool = True
    rate: int = 0
    max_bytes: int = 64 * 2**20
    margin: float = 0.05
    limit: int = 2000

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK
