"""Item and user tables: features and text beside the ids of the log."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.columns import check_column
from chronorec.data.encode import is_plain_integer
from chronorec.data.errors import DataError
from chronorec.data.sources import open_source, reading


def join_features(ids: pa.Array, role: str, log_column: str, source: Any, notes: list[str]) -> pa.Table:
    """A table with the ids (column ``role``) and, row by row, the features of ``source``.

    Args:
        ids: the ids of the log, by code.
        role: "item" or "user".
        log_column: name of the id column in the log; the table may call it so, or like the role.
        source: what ``open_source`` accepts, or None.
        notes: gets a sentence for ids that only one side knows.

    Raises:
        DataError: the table has no id column, repeats an id, or has ids of another kind.
    """
    bare = pa.table({role: ids})
    if source is None:
        return bare
    opened = open_source(source)
    name = log_column if log_column in opened.schema.names else role
    if name not in opened.schema.names:
        check_column(opened.schema, log_column, f"{role}s")
    schema, batches = opened.read(list(opened.schema.names), [name])
    with reading(opened.name):
        table = pa.Table.from_batches(batches, schema).combine_chunks()
    rows = table.num_rows
    if opened.guessed and pa.types.is_integer(ids.type):
        table = _without_texts(table, name)
    known = _ids_like(table[name], ids.type, role, name)
    features = table.drop_columns([name])
    if role in features.column_names or "offset" in features.column_names:
        raise DataError(f"{role}s: the feature names {role!r} and 'offset' are taken; rename the column")
    where = pc.index_in(ids, known)
    missing, unused = where.null_count, rows - (len(ids) - where.null_count)
    if missing:
        notes.append(f"{missing:,} {role}s of the log are not in the {role} table (their features are null)")
    if unused:
        notes.append(f"{unused:,} rows of the {role} table belong to no {role} of the log (left out)")
    return features.take(where).add_column(0, role, ids).combine_chunks()


def _without_texts(table: pa.Table, name: str) -> pa.Table:
    """Without the rows of a text file whose ids, such as "007", are no integers; unless all are."""
    mask = pc.fill_null(is_plain_integer(table[name]), True)
    return table.filter(mask).combine_chunks() if pc.any(mask).as_py() else table


def _ids_like(column: pa.ChunkedArray, kind: pa.DataType, role: str, name: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        known = column.cast(kind).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{role}s: the ids in column {name!r} are {column.type}, those of the log {kind}: {error}"
        ) from error
    if known.null_count:
        raise DataError(f"{role}s: {known.null_count} ids in column {name!r} are null")
    counts = pc.value_counts(known)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise DataError(
            f"{role}s: {len(repeated):,} ids appear more than once, such as {repeated[0]['values'].as_py()!r}"
        )
    return known
