"""The engine: runs a saved model without torch. See :class:`Engine`."""

from chronorec.engine.engine import Engine
from chronorec.engine.explain import EventShare, Explanation
from chronorec.engine.recommendations import Recommendations
from chronorec.engine.rules import Near, Rules
from chronorec.engine.sessions import Sessions
from chronorec.engine.shared_sessions import SharedSessions

__all__ = [
    "Engine",
    "EventShare",
    "Explanation",
    "Near",
    "Recommendations",
    "Rules",
    "Sessions",
    "SharedSessions",
]
