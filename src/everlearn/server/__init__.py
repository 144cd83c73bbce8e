"""The review loop: a server that predicts, explains and takes verdicts in, and the pages on which people give them."""

from everlearn.server.app import create_app
from everlearn.server.settings import Settings

__all__ = ["Settings", "create_app"]
