"""In how many bits a model is held, part by part."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Precision = Literal["float32", "bfloat16", "int8"]
StatePrecision = Literal["float32", "bfloat16"]


class Precisions(NamedTuple):
    """In how many bits an engine holds its model.

    Attributes:
        table: the item table, beside float32; it changes the time of an answer, never the answer.
        weights: of recurrent layers; the biases and all other layers stay in float32. In bfloat16 states are
            rounded too where they meet the weights; int8 has a scale per row.
        states: what sessions keep of their users, rounded after every event, so that a state is the same
            whether its events came one by one or were told again. Batches run event by event then.
    """

    table: Precision = "float32"
    weights: Precision = "float32"
    states: StatePrecision = "float32"

    @classmethod
    def of(cls, given: Precision | Precisions) -> Precisions:
        """Of the table alone, or of every part.

        Raises:
            ValueError: another precision than a part can have.
        """
        parts = given if isinstance(given, Precisions) else cls(given)
        for name, kinds in (("table", Precision), ("weights", Precision), ("states", StatePrecision)):
            _check(name if isinstance(given, Precisions) else "precision", getattr(parts, name), kinds)
        return parts

    @classmethod
    def parse(cls, text: str) -> Precisions:
        """``"int8"``, of the table alone, or ``"table=int8,weights=bfloat16,states=bfloat16"``.

        Raises:
            ValueError: not of this form.
        """
        if "=" not in text:
            return cls.of(text)  # type: ignore[arg-type]
        parts = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
        if len(parts) != len(text.split(",")) or not parts.keys() <= set(cls._fields):
            raise ValueError(f"precision: wanted PART=TYPE,... of {', '.join(cls._fields)}, got {text!r}")
        return cls.of(cls(**parts))  # type: ignore[arg-type]


def _check(name: str, value: object, kinds: object) -> None:
    wanted = get_args(kinds)
    if value not in wanted:
        texts = ", ".join(repr(kind) for kind in wanted[:-1]) + f" or {wanted[-1]!r}"
        raise ValueError(f"{name}: wanted {texts}, got {value!r}")
