"""Items as people read them: ids, scores and whatever text the item table has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.encode import is_text
from chronorec.engine.explain import Explanation
from chronorec.engine.forecast import Forecast


def item_lines(
    table: pa.Table, items: Sequence[Any], scores: Sequence[float] | npt.NDArray[np.float32] | None = None
) -> str:
    """An aligned text table, one line per item.

    Args:
        table: item table of a model: column ``item`` and features; up to four text columns are shown.
        items: ids, in the order to show.
        scores: one per item, shown if given.
    """
    ids = table.column("item")
    names = [f.name for f in table.schema if f.name != "item" and is_text(f.type)][:4]
    codes = pc.index_in(pa.array(items, ids.type), value_set=ids)
    rows = table.select(["item", *names]).take(codes).to_pylist()
    cells = [["", "item", *([] if scores is None else ["score"]), *names]]
    for place, row in enumerate(rows):
        score = [] if scores is None else [f"{scores[place]:.3f}"]
        cells.append([str(place + 1), str(row["item"]), *score, *(str(row[name] or "") for name in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def explanation_lines(explanation: Explanation, most: int = 3) -> str:
    """What a score is made of and the events that carried it most, as text."""
    parts = ", ".join(f"{name} {value:+.3f}" for name, value in explanation.parts.items() if value)
    if explanation.waiting is not None:
        parts += f"; of it waiting since the last event {explanation.waiting:+.3f}"
    lines = [f"{explanation.item}: {explanation.score:.3f} = {parts or '0'}"]
    for event in explanation.events[:most]:
        when = "" if event.time is None else f" ({np.datetime64(event.time, 'us')})"
        lines.append(f"  {event.difference:+.3f}  {event.item}{when}")
    return "\n".join(lines)


def forecast_lines(ways: Sequence[Forecast]) -> str:
    """Ways in which the next events may go, with their probabilities, as text."""
    return "\n".join(
        f"{math.exp(way.log_probability):8.2%}  {' > '.join(str(item) for item in way.items)}" for way in ways
    )
