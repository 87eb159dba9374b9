"""A thin HTTP server around the engine: ``chronorec serve``. Needs the extra ``serve``."""

from chronorec.server.app import make_app
from chronorec.server.service import Service

__all__ = ["Service", "make_app"]
