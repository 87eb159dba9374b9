"""The engine: runs a saved model without torch. See :class:`Engine`."""

from chronorec.engine.answers import Recommendations
from chronorec.engine.batch_files import recommend_file, recommend_stream
from chronorec.engine.engine import Engine
from chronorec.engine.explain import EventShare, Explanation
from chronorec.engine.forecast import Forecast
from chronorec.engine.precision import Precisions
from chronorec.engine.predictor import Predictor
from chronorec.engine.rules import Near, Rules
from chronorec.engine.sessions import Sessions
from chronorec.engine.shared_sessions import SharedSessions
from chronorec.engine.update import Updated, updated

__all__ = [
    "Engine",
    "EventShare",
    "Explanation",
    "Forecast",
    "Near",
    "Predictor",
    "Precisions",
    "Recommendations",
    "Rules",
    "Sessions",
    "SharedSessions",
    "Updated",
    "recommend_file",
    "recommend_stream",
    "updated",
]
