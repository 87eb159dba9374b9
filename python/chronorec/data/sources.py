"""Where an event log or a feature table can come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset

from chronorec.data.errors import DataError

ROWS_PER_PIECE = 1 << 20
_CSV_BLOCK = 1 << 24

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
    ".csv": "csv",
    ".csv.gz": "csv",
}


@dataclass(frozen=True)
class Source:
    """Something with a schema that yields record batches of chosen columns, in the order of its rows.

    ``read(columns, ids)`` gives the schema of these columns and the batches, which are read while iterating.
    Where types are guessed (CSV), the columns ``ids`` are read as the text that is there, empty as null.
    """

    name: str
    schema: pa.Schema
    read: Callable[[list[str], Collection[str]], tuple[pa.Schema, Iterator[pa.RecordBatch]]]
    rows: int | None = None  # if known without reading
    guessed: bool = False  # a text file: the types of its columns are a guess


def open_source(source: Any) -> Source:
    """Opens a path, or any object that speaks the Arrow PyCapsule interface.

    Raises:
        DataError: nothing can be read from it.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, Path)):
        return _open_path(Path(source))
    if isinstance(source, (pa.Table, pa.RecordBatch)):
        table = pa.Table.from_batches([source]) if isinstance(source, pa.RecordBatch) else source

        def read_table(
            columns: list[str], ids: Collection[str]
        ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
            chosen = table.select(columns)
            return chosen.schema, _slices("Arrow table", chosen.to_batches())

        return Source("Arrow table", table.schema, read_table, table.num_rows)
    if hasattr(source, "__arrow_c_stream__"):
        kind = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
        with reading(kind):
            reader = pa.RecordBatchReader.from_stream(source)

        def read_stream(
            columns: list[str], ids: Collection[str]
        ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
            return _schema_of(reader.schema, columns), _slices(kind, _select(reader, columns))

        return Source(kind, reader.schema, read_stream)
    raise DataError(
        "source: wanted a path or an object with __arrow_c_stream__ (a pyarrow, polars or pandas table, a "
        f"DuckDB relation), got {type(source).__name__}"
    )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns Arrow's errors into DataError that names the source."""
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read, damaged or cut short: {error}") from error


def _slices(name: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with reading(name):
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_PIECE):
                yield batch.slice(start, ROWS_PER_PIECE)


def _schema_of(schema: pa.Schema, columns: list[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns])


def _select(reader: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        yield batch.select(columns)


def _format_of(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes]
    return _FORMATS.get("".join(suffixes[-2:])) or _FORMATS.get(suffixes[-1] if suffixes else "")


def _open_path(path: Path) -> Source:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        return _open_folder(path)
    kind = _format_of(path)
    if kind is None:
        raise DataError(f"{path}: wanted a name that ends in {', '.join(_FORMATS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is an empty file")
    with reading(str(path)):
        if kind == "csv":
            return _open_csv(path)
        if kind == "arrow":
            return _open_ipc(path)
        return _open_dataset(path, [str(path)], "parquet")


def _open_folder(path: Path) -> Source:
    hidden = (".", "_")
    files = sorted(
        p
        for p in path.rglob("*")
        if p.is_file() and not any(part.startswith(hidden) for part in p.relative_to(path).parts)
    )
    kinds = {_format_of(p) for p in files}
    if not kinds:
        raise DataError(f"{path}: the folder holds no files")
    if len(kinds) > 1 or None in kinds:
        names = sorted({"".join(p.suffixes[-2:]) or p.name for p in files})
        raise DataError(
            f"{path}: wanted files of one format ({', '.join(_FORMATS)}), got {', '.join(names[:8])}"
        )
    (kind,) = kinds
    with reading(str(path)):
        return _open_dataset(path, [str(p) for p in files], str(kind))


def _open_dataset(path: Path, files: list[str], kind: str) -> Source:
    base = str(path) if path.is_dir() else None
    partitioning = pyarrow.dataset.HivePartitioning.discover(infer_dictionary=False)

    def open_as(form: Any) -> Any:
        return pyarrow.dataset.dataset(
            files, format=form, partitioning=partitioning if base else None, partition_base_dir=base
        )

    whole = open_as(kind)

    def read(columns: list[str], ids: Collection[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        data = whole
        if kind == "csv":
            types = dict.fromkeys(ids, pa.string())
            options = pyarrow.csv.ConvertOptions(column_types=types)
            data = open_as(pyarrow.dataset.CsvFileFormat(convert_options=options))
        # few batches ahead: the log may be larger than memory
        scanner = data.scanner(
            columns=columns, batch_size=ROWS_PER_PIECE, batch_readahead=2, fragment_readahead=1
        )
        batches = _slices(str(path), scanner.to_batches())
        return _schema_of(data.schema, columns), _empty_as_null(batches, ids) if kind == "csv" else batches

    return Source(str(path), whole.schema, read, guessed=kind == "csv")


def _open_ipc(path: Path) -> Source:
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"

    def open_reader() -> Any:
        mapped = pa.memory_map(str(path))
        return pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)

    def read(columns: list[str], ids: Collection[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        reader = open_reader()
        every = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        return _schema_of(reader.schema, columns), _slices(str(path), _select(every, columns))

    return Source(str(path), open_reader().schema, read)


def _open_csv(path: Path) -> Source:
    types: dict[str, pa.DataType] = {}

    def open_reader(columns: list[str]) -> Any:
        return pyarrow.csv.open_csv(
            pa.input_stream(str(path), compression="detect"),
            read_options=pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns),
        )

    def read(columns: list[str], ids: Collection[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        with reading(str(path)):
            types.update(dict.fromkeys(ids, pa.string()))
            others = [name for name in columns if name not in ids]
            if others:
                _settle_csv(open_reader, others, types)
            reader = open_reader(columns)
        return reader.schema, _empty_as_null(_slices(str(path), reader), ids)

    return Source(str(path), open_reader([]).schema, read, guessed=True)


def _empty_as_null(batches: Iterator[pa.RecordBatch], names: Collection[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for name in names:
            column = batch.column(name)
            if pa.types.is_string(column.type):  # not the key of a partition
                empty = pc.equal(pc.binary_length(column), 0)
                if pc.any(empty).as_py():
                    column = pc.if_else(empty, pa.scalar(None, pa.string()), column)
                    batch = batch.set_column(batch.schema.get_field_index(name), name, column)
        yield batch


def _settle_csv(open_reader: Any, columns: list[str], types: dict[str, pa.DataType]) -> None:
    """Reads all rows once: a column whose later rows do not fit the type of its first ones becomes text."""
    while (failure := _first_conversion_error(open_reader, columns)) is not None:
        names = open_reader([]).schema.names
        found = re.search(r"In CSV column #(\d+): (?:CSV )?conversion error", str(failure), re.IGNORECASE)
        name = names[int(found[1])] if found is not None and int(found[1]) < len(names) else None
        if name is None or name in types:
            raise failure
        types[name] = pa.string()


def _first_conversion_error(open_reader: Any, columns: list[str]) -> pa.ArrowInvalid | None:
    try:
        for _ in open_reader(columns):
            pass
    except pa.ArrowInvalid as error:
        return error
    return None
