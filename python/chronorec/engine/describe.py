"""Items as people read them: ids, scores and whatever text the item table has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


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
    names = [f.name for f in table.schema if f.name != "item" and _is_text(f.type)][:4]
    codes = pc.index_in(pa.array(items, ids.type), value_set=ids)
    rows = table.select(["item", *names]).take(codes).to_pylist()
    cells = [["", "item", *([] if scores is None else ["score"]), *names]]
    for place, row in enumerate(rows):
        score = [] if scores is None else [f"{scores[place]:.3f}"]
        cells.append([str(place + 1), str(row["item"]), *score, *(str(row[name] or "") for name in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
