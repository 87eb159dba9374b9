"""Approximate search over very large catalogues: candidates from a faiss index, scores from our own kernel.

Candidates come from a graph (HNSW; Malkov and Yashunin, 2018, https://arxiv.org/abs/1603.09320) or from
inverted lists over half-precision vectors. More are fetched than are wanted, items that a request adds
something to come beside, and all are scored exactly. The exact search answers where a filter leaves less than
a twentieth of the catalogue, or few candidates, and where candidates run out.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from chronorec import _core
from chronorec.artifact import INDEX_FILES, Artifact
from chronorec.atomic import new_file
from chronorec.data.jagged import Int32s, Int64s, row_of_values
from chronorec.data.splits import Queries
from chronorec.engine.adjust import Adjustment
from chronorec.engine.item_table import ItemTable, exact_topk, score_lists
from chronorec.engine.program import Floats
from chronorec.progress import Progress

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.engine.engine import Engine

SearchKind = Literal["exact", "hnsw", "ivf"]
FORMAT = 1
KIND = "chronorec.index"

_NEIGHBOURS = 32  # of an item in the graph
_BUILD_BREADTH = 80
_ROWS = 1 << 15  # added at a time
_TRAINED_ROWS = 64  # per list
_MORE, _AT_LEAST = 4, 64  # candidates per wanted item, and beside
_LEAST_SHARE, _LEAST_CANDIDATES = 20, 16  # of the catalogue, and per candidate, that a filter must leave


class Search(NamedTuple):
    """How the best of all items are found.

    Attributes:
        kind: ``"exact"`` reads the whole table; ``"hnsw"`` and ``"ivf"`` need faiss.
        probes: how much of the index a request looks at: candidates kept while walking the graph (hnsw), or
            lists read (ivf); more find more, and take longer.
    """

    kind: SearchKind = "exact"
    probes: int = 128

    @classmethod
    def of(cls, given: SearchKind | Search) -> Search:
        """Raises ValueError for another kind, or a number below 1."""
        search = given if isinstance(given, Search) else cls(given)
        if search.kind not in get_args(SearchKind):
            raise ValueError(f"search: wanted 'exact', 'hnsw' or 'ivf', got {search.kind!r}")
        if not isinstance(search.probes, int) or search.probes < 1:
            raise ValueError(f"search: probes: wanted a whole number from 1, got {search.probes!r}")
        return search


#: A kind with its usual number of probes, or both.
AnySearch = SearchKind | Search


class ItemIndex:
    """A faiss index over the items of a model; :func:`index_of` makes it."""

    def __init__(self, index: Any, search: Search, bias: Floats | None, model: str) -> None:
        self.search, self.model = search, model
        self._index, self._bias = index, bias

    def topk(
        self,
        states: Floats,
        table: ItemTable,
        bias: Floats | None,
        adjustment: Adjustment | None,
        k: int,
        allow: npt.NDArray[np.uint8] | None,
    ) -> tuple[Int32s, Floats]:
        """As :func:`chronorec.engine.item_table.topk`, from the candidates of the index."""
        exactly = (states, table, bias, adjustment, k, allow)
        out = 0 if adjustment is None else _most_out(adjustment)
        wanted = _MORE * k + _AT_LEAST + out
        boosted = self._boosted(bias)
        left = table.num_items if allow is None else int(np.count_nonzero(allow))
        if left < max(table.num_items // _LEAST_SHARE, _LEAST_CANDIDATES * max(wanted, len(boosted))):
            return exact_topk(*exactly)
        found = self._candidates(states, wanted, allow)
        keys = np.repeat(np.arange(len(states)), wanted) * table.num_items + found.reshape(-1)
        added = [keys[found.reshape(-1) >= 0]]
        if adjustment is not None:
            lifted = adjustment.values > -np.inf
            rows = row_of_values(adjustment.offsets)
            added.append(rows[lifted] * table.num_items + adjustment.items[lifted])
        added += [row * table.num_items + boosted for row in range(len(states))] if len(boosted) else []
        codes, scores = _best(np.unique(np.concatenate(added)), *exactly)
        short = np.flatnonzero(codes[:, -1] < 0) if k else np.empty(0, np.int64)
        for row in short.tolist():  # there are fewer, or the index did not find them
            own = None if adjustment is None else adjustment.rows(row, row + 1)
            codes[row], scores[row] = exact_topk(states[row : row + 1], table, bias, own, k, allow)
        return codes, scores

    def _boosted(self, bias: Floats | None) -> Int64s:
        """Items that have another bias than in the index."""
        if bias is self._bias or bias is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(bias != (0 if self._bias is None else self._bias))

    def _candidates(self, states: Floats, wanted: int, allow: npt.NDArray[np.uint8] | None) -> Int64s:
        """Codes [B, wanted], -1 where there are no more."""
        faiss, how = _faiss(self.search.kind), {}
        if allow is not None:
            how["sel"] = faiss.IDSelectorBitmap(np.packbits(allow, bitorder="little"))
        if self.search.kind == "hnsw":
            breadth = max(self.search.probes, wanted)
            parameters = faiss.SearchParametersHNSW(efSearch=breadth, **how)
        else:
            probes = min(self.search.probes, self._index.nlist)
            parameters = faiss.SearchParametersIVF(nprobe=probes, **how)
        asked = states if self._bias is None else np.insert(states, states.shape[1], 1, axis=1)
        _, codes = self._index.search(np.ascontiguousarray(asked), wanted, params=parameters)
        found: Int64s = codes
        return found

    def save(self, folder: Path) -> Path:
        """Writes the index into a model folder, where the next load finds it; replaced in one step."""
        content = _faiss(self.search.kind).serialize_index(self._index).tobytes()
        header = _header(self.search.kind, self.model, content)
        path = folder / INDEX_FILES[self.search.kind]
        with new_file(path, draft=path.with_name(f"{path.name}.draft")) as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(content)
        return path


def index_of(artifact: Artifact, bias: Floats | None, search: Search) -> ItemIndex | None:
    """The index that lies in the model's folder, if it is of this very model, or a new one; None: exact.

    Raises:
        ImportError: there is no faiss.
        ValueError: the model has no item vectors.
    """
    if search.kind == "exact":
        return None
    if artifact.table is None or not artifact.num_items:
        raise ValueError(f"search: {artifact.name} has no item vectors to search; wanted 'exact'")
    faiss = _faiss(search.kind)
    if artifact.folder is not None:
        content = _read(artifact.folder / INDEX_FILES[search.kind], search.kind, artifact.identity)
        if content is not None:
            index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
            return ItemIndex(index, search, bias, artifact.identity)
    return ItemIndex(_build(faiss, artifact, bias, search), search, bias, artifact.identity)


def save_index(engine: Engine) -> Path:
    """Writes the index of an engine into its model's folder, where the next load finds it.

    Raises:
        ValueError: it searches exactly, or its model is in no folder.
    """
    index, folder = engine.table.candidates, engine.artifact.folder
    if not isinstance(index, ItemIndex) or folder is None:
        raise ValueError("engine: wanted one with an approximate search, loaded from a model folder")
    return index.save(folder)


def _read(path: Path, kind: str, model: str) -> bytes | None:
    """The index in a file; None where there is none, or one of another model, or a damaged one."""
    try:
        line, _, content = path.read_bytes().partition(b"\n")
        header = json.loads(line)
    except (FileNotFoundError, ValueError):
        return None
    return content if header == _header(kind, model, content) else None


def _header(kind: str, model: str, content: bytes) -> dict[str, Any]:
    """The first line of a file with an index."""
    digest = hashlib.sha256(content).hexdigest()
    return {"kind": KIND, "format": FORMAT, "search": kind, "model": model, "sha256": digest}


def _build(faiss: Any, artifact: Artifact, bias: Floats | None, search: Search) -> Any:
    assert artifact.table is not None
    rows = artifact.weights[artifact.table]
    width, threads = rows.shape[1] + (bias is not None), faiss.omp_get_max_threads()

    def part(places: slice | Int64s) -> Floats:
        own = rows[places] if bias is None else np.insert(rows[places], width - 1, bias[places], axis=1)
        return np.ascontiguousarray(own, np.float32)

    faiss.omp_set_num_threads(_core.num_threads())
    half = faiss.ScalarQuantizer.QT_fp16
    if search.kind == "hnsw":
        index = faiss.IndexHNSWSQ(width, half, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_BREADTH
        index.train(part(slice(0, 1)))
    else:
        lists = max(1, min(len(rows) // _TRAINED_ROWS, int(4 * len(rows) ** 0.5)))
        coarse = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFScalarQuantizer(coarse, width, lists, half, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical = True  # lists by direction: long centroids would draw every item
        places = np.random.default_rng(0).permutation(len(rows))[: lists * _TRAINED_ROWS]
        index.train(part(np.sort(places)))
    progress = Progress(f"{search.kind} index of {artifact.name}", len(rows), "items")
    for first in range(0, len(rows), _ROWS):
        index.add(part(slice(first, first + _ROWS)))
        progress.advance(min(_ROWS, len(rows) - first))
    progress.close()
    faiss.omp_set_num_threads(threads)
    return index


def _best(
    keys: Int64s,
    states: Floats,
    table: ItemTable,
    bias: Floats | None,
    adjustment: Adjustment | None,
    k: int,
    allow: npt.NDArray[np.uint8] | None,
) -> tuple[Int32s, Floats]:
    """Codes and scores [B, k] of the best of the candidates row * V + item, which ascend; -1 and -inf where
    there are fewer."""
    rows, listed = keys // table.num_items, (keys % table.num_items).astype(np.int32)
    offsets = np.searchsorted(rows, np.arange(len(states) + 1)).astype(np.int64)
    every = score_lists(states, table, bias, adjustment, listed, offsets, allow)
    order = np.lexsort((listed, -every, rows))
    place = np.arange(len(keys)) - offsets[rows]
    kept = (place < k) & (every[order] > -np.inf)
    codes = np.full((len(states), k), -1, np.int32)
    scores = np.full((len(states), k), -np.inf, np.float32)
    codes[rows[kept], place[kept]] = listed[order][kept]
    scores[rows[kept], place[kept]] = every[order][kept]
    return codes, scores


def _most_out(adjustment: Adjustment) -> int:
    """The most items that any row leaves out."""
    out = np.concatenate([[0], np.cumsum(adjustment.values == -np.inf)])
    return int(np.diff(out[adjustment.offsets]).max(initial=0))


def _faiss(kind: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"search: {kind!r} needs faiss; pip install 'chronorec[ann]'") from error
    return faiss


# --- how much it finds --------------------------------------------------------------------------------------


class SearchReport(NamedTuple):
    """What an approximate search found of what the exact one finds, one request at a time.

    Attributes:
        recall: share of the k best items that were among the k found, over all requests.
        microseconds, exact_microseconds: the median request, from a user's events to codes.
    """

    search: Search
    k: int
    requests: int
    recall: float
    microseconds: float
    exact_microseconds: float

    def __str__(self) -> str:
        return (
            f"{self.search.kind}, {self.search.probes} probes: recall@{self.k} {self.recall:.4f} against the "
            f"exact search over {self.requests:,} requests; {self.microseconds:,.0f} us a request, exact "
            f"{self.exact_microseconds:,.0f} us"
        )


def measure_search(engine: Engine, histories: Histories, *, k: int = 10, requests: int = 500) -> SearchReport:
    """Asks an engine, and the same one without its index, for the best items of users spread over a log."""
    exact = copy.copy(engine)
    exact.table = engine.table._replace(candidates=None)
    users = np.unique(np.linspace(0, histories.num_users - 1, requests).astype(np.int32))
    found, seconds = [], []
    for one in (engine, exact):
        lists, times = zip(*(_ask(one, histories, user, k) for user in users), strict=True)
        found.append(np.concatenate(lists))
        seconds.append(float(np.median(times)))
    same = (found[0][:, :, None] == found[1][:, None, :]) & (found[1] >= 0)[:, None, :]
    recall = float(same.sum() / max(np.count_nonzero(found[1] >= 0), 1))
    return SearchReport(engine.search, k, len(users), recall, seconds[0] * 1e6, seconds[1] * 1e6)


def _ask(engine: Engine, histories: Histories, user: int, k: int) -> tuple[Int32s, float]:
    end = histories.offsets[user + 1 : user + 2]
    at = None if histories.time is None else histories.time[end - 1] + 1
    begin, no_targets = histories.offsets[user : user + 1], np.zeros(2, np.int64)
    query = Queries(np.array([user], np.int32), begin, end, at, no_targets, np.empty(0, np.int32))
    start = time.perf_counter()
    return engine.topk(histories, query, k, exclude_seen=False), time.perf_counter() - start
