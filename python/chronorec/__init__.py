"""chronorec: recommendations that understand time.

Nothing heavy is imported here: submodules and the names below load on first use, so that a service that
only embeds the engine never pays for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY_NAMES = {
    "Engine": "chronorec.engine",
    "EventLog": "chronorec.data",
    "Histories": "chronorec.data",
}
_LAZY_MODULES = ("data", "engine", "evaluation", "models", "nn", "ops", "training", "artifact")

__all__ = ["__version__", *_LAZY_NAMES, *_LAZY_MODULES]

if TYPE_CHECKING:
    from chronorec.data import EventLog as EventLog
    from chronorec.data import Histories as Histories
    from chronorec.engine import Engine as Engine


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"chronorec.{name}")
    raise AttributeError(f"module 'chronorec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
