"""The engine: runs a saved model without torch. See :class:`Engine`."""

from chronorec.engine.engine import Engine, Recommendations
from chronorec.engine.explain import EventShare, Explanation
from chronorec.engine.precision import Precisions
from chronorec.engine.rules import Near, Rules
from chronorec.engine.sessions import Sessions
from chronorec.engine.shared_sessions import SharedSessions

__all__ = [
    "Engine",
    "EventShare",
    "Explanation",
    "Near",
    "Precisions",
    "Recommendations",
    "Rules",
    "Sessions",
    "SharedSessions",
]
