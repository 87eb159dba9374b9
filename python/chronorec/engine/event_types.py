"""Names of event types to the codes of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from chronorec.data.jagged import Int32s

#: Codes of events whose type is not said, and of those whose type the model does not know: both read the
#: vector of a missing type.
MISSING, UNKNOWN = -1, -2


class EventTypes:
    """The event types that a model reads; code = place.

    Args:
        names: as in the log; none where the model does not look at types.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._codes: dict[object, int] = {name: code for code, name in enumerate(names)}
        self._codes[None] = MISSING

    def __bool__(self) -> bool:
        return bool(self.names)

    def code_of(self, name: str | None) -> int:
        """The code of a type, or ``MISSING`` or ``UNKNOWN``."""
        return self._codes.get(name, UNKNOWN)

    def lacks(self, name: str | None) -> bool:
        """Whether the model reads types and does not know this one."""
        return bool(self.names) and self.code_of(name) == UNKNOWN

    def codes_of(self, names: Iterable[str | None]) -> Int32s:
        """Codes int32 of types."""
        if isinstance(names, str):
            raise TypeError(f"events: wanted a sequence of event types, got the text {names!r}")
        return np.array([self.code_of(name) for name in names], np.int32).reshape(-1)

    def names_of(self, codes: Int32s) -> list[str | None]:
        """The types of codes; None where they are missing."""
        return [self.names[code] if code >= 0 else None for code in codes.tolist()]

    def recode(self, codes: Int32s, names: Sequence[str]) -> Int32s:
        """Codes of another vocabulary as those of this one."""
        found: Int32s = np.append(self.codes_of(names), np.int32(MISSING))[codes]
        return found


#: Of a model that looks at no types.
NO_TYPES = EventTypes(())
