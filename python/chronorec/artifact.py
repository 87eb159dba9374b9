"""A saved model: what the engine runs, without the class that trained it and without pickle.

A model folder holds

- ``model.json``: format number, the program (a list of core calls over named weights), how scores are made,
  how a history is cut, provenance, the SHA-256 of the other files and of itself;
- ``weights.safetensors``: named fp32 arrays;
- ``items.arrow``: the vocabulary: column ``item`` (original ids, row = item code) and item features;
- ``config.toml``: the resolved configuration of the training run, where there was one;
- ``evaluations.json``: every evaluation of the models of this folder (:mod:`chronorec.evaluation.ledger`),
  not part of the hashed content.

The program is a list of steps ``{"call": ..., "out": register, ...}`` run over a jagged batch of tokens
(events, or whole baskets). Calls, with weights named by string and registers written in brackets:

====================  ===========================================================================
``embed``             [out] = scale * table[item] (baskets: mean over the basket) + position. A ``query`` is
                      the vector of one more token after each history, at the time of the request
``layer_norm``        [out] = layer norm of [in]
``dense``             [out] = activation([in] weight^T + bias) + [residual]
``gru, lstm, rnn``    [out] = recurrent layer over each sequence of [in]; an rnn's units are tanh
``attention``         [out] = self-attention in ``heads``; [in] is the packed query, key, value. A token sees
                      those up to itself unless ``causal`` is false, and only those less than ``window`` away.
                      ``activation`` softmax, or silu with the sum over ``divisor``. Learned biases:
                      ``position`` (by gap of position) and ``time_table`` (by gap of time, in buckets
                      between ``time_boundaries``, microseconds)
``add_time``          [out] = [in] + table[bucket of a time]. ``of`` a token, its time (``event``) or the time
                      since the token before it (``gap``, endless for the first); ``of`` a history, the time
                      of the request (``request``) or since its last token (``wait``). Lengths of time fall
                      between ``boundaries`` (microseconds, one fewer than rows); for moments the rows share
                      out a ``period`` of local time, which is UTC + shift: int64 weights ``<zone>_starts``
                      and ``<zone>_shifts``, of which the last start <= time counts
``add_category``      [out] = [in] + table[1 + code] of a token; ``of`` is "event_type", whose code is its
                      place among the model's event types. Row 0: the type is missing or unknown. ``of`` a
                      history: "profile", the code of a ``column`` of the model's profile; likewise
``multiply``          [out] = [in] * [by] + [residual]
``last``              [out] = the last token of each sequence (zeros for an empty one)
====================  ===========================================================================

Scores are ``state . table + bias[item] + adjustment(history, time of the request)``. A model without a
program has no state: bias and adjustments speak. An adjustment is a sparse addition:

- ``frequency``: every event of the history adds its weight to its item: exp(-days / ``decay_days``), times a
  Gaussian of ``hour_width`` hours round the request's time of day, times 1 + ``transition_weight`` where it
  came right after an earlier event of the last item. Each of the three may be None.
- ``transition``: the rows of a CSR matrix (``W_offsets``, ``W_items``, ``W_shares`` for ``weights`` W) of the
  last token's items.
- ``neighbours``: (1 - ``share``) times the share of each item in the history, decayed by ``decay_days``, and
  ``share`` times the mean of the rows (``W_offsets``, ``W_items``, ``W_rates``) of the ``count`` users whose
  similarity to the history is largest: a product with a CSR matrix of items by users (``W_item_offsets``,
  ``W_item_users``, ``W_item_similarities``).
- ``copy``: exp(score) of every item among the tokens grows by the exp of a weight, made from the state and
  learned tables; :class:`chronorec.engine.copy.CopyHead` says how. The weights are ``W.gap`` and so on.
- ``rescore``: the ``count`` best items by state and bias gain what they find by attention in the items of the
  last tokens. With rows of the table times sqrt(D), (q, u) = ``W.candidate`` of the candidate's and (k, v) =
  ``W.history`` of an item's, D each, the gain is the sum of (u . v) / sqrt(D) weighted by the softmax of
  q . k / sqrt(D) + ``W.rank`` at how many tokens ago. All candidates rise together where one would fall
  behind the other items.

Where nothing is known of a user, ``fallback`` answers in place of the model: the links of a chain, each with
``counts``, the name of a [V] weight of events per item, and for the recent past ``days`` and ``until``; see
:mod:`chronorec.engine.fallback`. Models updated since their training hold ``update.evidence`` [V], the number
of events that the vector of an item rests on: infinite for those that were trained.

A head says more of an item v after a state. Its output k is ``(state query_k^T + b_k) . table[v] +
constant_k . state + c_k + item[v, k]``, with weights ``W.pair.query.weight`` [K D, D] and so on:

- ``behaviour``: a softmax over outputs gives the probabilities of the event types ``classes``, given v.
- ``value_class``: the same for the numbers ``classes`` as values of the event.
- ``value``: the value of the event is output 0 times ``deviation`` plus ``mean``.
- ``steps``: without outputs. State j ahead, of 2 to ``steps``, is state + (state W_j^T + b_j), of weights
  ``W.ahead.weight`` [(steps - 1) D, D] and ``W.ahead.bias``; scores are state . table + bias[item].
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from chronorec.atomic import new_folder, obstacle

FORMAT = 1
#: ``max_length`` of a program that reads every event, however many there are.
WHOLE_HISTORY = 2**31 - 1
KIND = "chronorec.model"
HEADER = "model.json"
LEDGER, LEDGER_DRAFT = "evaluations.json", "evaluations.json.draft"
#: what an approximate search may keep in the folder, by its kind; it goes when a new model takes that
INDEX_FILES = {"hnsw": "search-hnsw.faiss", "ivf": "search-ivf.faiss"}
_CONTENT = ("weights.safetensors", "items.arrow", "config.toml")


class ArtifactError(ValueError):
    """A model folder that cannot be used; the message says why."""


@dataclass(frozen=True)
class Artifact:
    """A model ready for the engine.

    Attributes:
        name: how reports call it, such as ``"sasrec"``.
        items: vocabulary table, column ``item`` first; row = item code.
        weights: named arrays: fp32, or int32/int64 index arrays of sparse adjustments.
        program: steps that turn token sequences into states; empty for models without a state.
        table: name of the fp32 [V, D] weight that scores are taken against, or None.
        bias: name of the fp32 [V] weight added to the scores, or None.
        adjustments: sparse additions, in order; see the module's text.
        basket: whether a token is a whole basket rather than one event.
        max_length: how many of the last tokens the program sees; WHOLE_HISTORY: all of them.
        exclude_seen: whether items of the history leave the candidates unless a request says otherwise.
        needs_time: whether events and requests must carry times.
        event_types: names of the event types that the program reads, by code; none where it reads none.
        profile: columns of the user table that the program reads; see :mod:`chronorec.data.profile`.
        fallback: who speaks where nothing is known of a user, in order: ``source``, the fp32 [V] weight
            ``counts``, and of the recent past ``days`` and ``until``; see :mod:`chronorec.engine.fallback`.
        heads: what is predicted beside the next item; see the module's text.
        provenance: where the model comes from: data and split hashes, seed, validation result, versions.
        config: text of the resolved TOML configuration, or "".
        folder: where the model was loaded from, or saved by training; None where it is in no folder.
    """

    name: str
    items: pa.Table
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    program: list[dict[str, Any]] = field(default_factory=list)
    table: str | None = None
    bias: str | None = None
    adjustments: list[dict[str, Any]] = field(default_factory=list)
    basket: bool = False
    max_length: int = 200
    exclude_seen: bool = False
    needs_time: bool = False
    event_types: list[str] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)
    fallback: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    folder: Path | None = None

    @property
    def num_items(self) -> int:
        return int(self.items.num_rows)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over weights and program: what makes two models answer alike, wherever they come from."""
        named = {name: vars(self)[name] for name in _HEADER_FIELDS if name != "provenance"}
        named |= {name: vars(self)[name] for name in _LATER_FIELDS if vars(self)[name]}
        digest = hashlib.sha256(_digest(named | {"num_items": self.num_items}).encode())
        for name, value in sorted(self.weights.items()):
            digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the model folder; one of the same name is replaced only once the new one is complete.

        The record of evaluations of a model that is replaced stays in the folder.

        Raises:
            ArtifactError: see :func:`check_target`; nothing was written.
        """
        target = check_target(folder)
        files = {
            "weights.safetensors": save_safetensors(
                {name: np.ascontiguousarray(value) for name, value in self.weights.items()}
            ),
            "items.arrow": _table_bytes(self.items),
            "config.toml": self.config.encode(),
        }
        header = self._header(files)
        files[HEADER] = json.dumps({**header, "header_sha256": _digest(header)}, indent=1).encode()
        if (target / LEDGER).is_file():
            files[LEDGER] = (target / LEDGER).read_bytes()
        with new_folder(target) as work:
            for name, content in files.items():
                (work / name).write_bytes(content)
        return target

    def _header(self, files: dict[str, bytes]) -> dict[str, Any]:
        return {
            "kind": KIND,
            "format": FORMAT,
            "name": self.name,
            "num_items": self.num_items,
            "program": self.program,
            "table": self.table,
            "bias": self.bias,
            "adjustments": self.adjustments,
            "basket": self.basket,
            "max_length": self.max_length,
            "exclude_seen": self.exclude_seen,
            "needs_time": self.needs_time,
            **{name: vars(self)[name] for name in _LATER_FIELDS},
            "provenance": self.provenance,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Artifact:
        """Reads a model folder.

        Raises:
            ArtifactError: the folder is missing, foreign, corrupt or of a newer format.
        """
        path = Path(folder)
        header = _read_header(path)
        content = {name: _read_checked(path / name, digest) for name, digest in header["sha256"].items()}
        try:
            weights = load_safetensors(content["weights.safetensors"])
            items = pa.ipc.open_file(pa.py_buffer(content["items.arrow"])).read_all()
            artifact = cls(
                items=items,
                weights=weights,
                config=content["config.toml"].decode(),
                folder=path,
                **{name: header.get(name, []) for name in _LATER_FIELDS},
                **{name: header[name] for name in _HEADER_FIELDS},
            )
        except (KeyError, SafetensorError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path}: damaged model folder: {error}") from error
        if artifact.num_items != header.get("num_items"):
            said = header.get("num_items")
            raise ArtifactError(f"{path}: items.arrow has {artifact.num_items} rows, model.json says {said}")
        return artifact


def check_target(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path, if a model can be saved there: it is new, empty or holds a model.

    Raises:
        ArtifactError: it is a file, holds other files, or cannot be made.
    """
    target = Path(folder)
    indexes = [name + end for name in INDEX_FILES.values() for end in ("", ".draft")]
    why = obstacle(target, HEADER, KIND, (HEADER, LEDGER, LEDGER_DRAFT, *indexes, *_CONTENT))
    if why is not None:
        raise ArtifactError(f"{target}: cannot hold a model: {why}; choose another folder")
    return target


_HEADER_FIELDS = (
    "name",
    "program",
    "table",
    "bias",
    "adjustments",
    "basket",
    "max_length",
    "exclude_seen",
    "needs_time",
    "provenance",
)
#: Lists that older folders of this format do without; where they are empty a model is what it was.
_LATER_FIELDS = ("fallback", "heads", "event_types", "profile")


def _read_header(path: Path) -> dict[str, Any]:
    file = path / HEADER
    if not file.is_file():
        raise ArtifactError(f"{path}: no model here (no model.json); `chronorec train` writes one")
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise ArtifactError(f"{file}: not a chronorec model (wanted kind {KIND!r})")
    if not isinstance(header.get("format"), int) or header["format"] > FORMAT:
        raise ArtifactError(
            f"{file}: format {header.get('format')!r}, this version reads up to {FORMAT}; upgrade chronorec"
        )
    if header.pop("header_sha256", None) != _digest(header):
        raise ArtifactError(f"{file}: damaged: its content differs from its header_sha256")
    if not isinstance(header.get("sha256"), dict) or set(header["sha256"]) != set(_CONTENT):
        raise ArtifactError(f"{file}: damaged: sha256 must list {', '.join(_CONTENT)}")
    return header


def _digest(header: dict[str, Any]) -> str:
    """SHA-256 over the header's values as JSON gives them back, without regard to order and spaces."""
    values = json.loads(json.dumps(header))
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_checked(file: Path, digest: str) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(f"{file}: damaged: its SHA-256 is not the one in model.json")
    return content


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
