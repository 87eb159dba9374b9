"""The engine: runs a saved model without torch. See :class:`Engine`."""

from chronorec.engine.engine import Engine, Recommendations

__all__ = ["Engine", "Recommendations"]
