"""What the held-out events were already asked: a record of every evaluation, kept in the model folder.

Validation chooses, the test events are read once. Whoever reads them twice and keeps the better answer has
chosen on them, so a second test evaluation of a model must be asked for, and reports print the count.
``evaluations.json`` is not part of the hashed content of a model; it stays when a new model takes the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chronorec.artifact import LEDGER, LEDGER_DRAFT, Artifact, ArtifactError
from chronorec.atomic import new_file

if TYPE_CHECKING:
    from chronorec.evaluation.protocols import EvaluationResult

FORMAT = 1
KIND = "chronorec.evaluations"


class AlreadyTested(ValueError):
    """A model was evaluated on its test events before."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model.

    Attributes:
        model: identity of the model, :attr:`chronorec.artifact.Artifact.identity`.
        at: when it was recorded, ISO, UTC.
        part: "validation" or "test".
        protocol, split: the split's protocol and hash.
        queries: how many there were.
        metrics: their means.
    """

    model: str
    at: str
    part: str
    protocol: str
    split: str
    queries: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class ReadCount:
    """How often the test events were read for a model, and for others that had its folder before."""

    own: int
    earlier: int

    def __str__(self) -> str:
        return f"{self.own} (earlier models of its folder: {self.earlier})" if self.earlier else str(self.own)


def read_ledger(folder: str | os.PathLike[str]) -> list[Evaluation]:
    """The evaluations of the models of a folder, oldest first.

    Raises:
        ArtifactError: the record is damaged or of a newer format.
    """
    file = Path(folder) / LEDGER
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: damaged record of evaluations: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ArtifactError(f"{file}: not a record of evaluations (wanted kind {KIND!r})")
    if not isinstance(content.get("format"), int) or content["format"] > FORMAT:
        raise ArtifactError(
            f"{file}: format {content.get('format')!r}, this version reads up to {FORMAT}; upgrade chronorec"
        )
    try:
        return [Evaluation(**entry) for entry in content["evaluations"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: damaged record of evaluations: {error}") from error


def count_tests(model: Artifact) -> ReadCount | None:
    """How often the test events were read; None for a model that is in no folder."""
    if model.folder is None:
        return None
    tests = [entry.model == model.identity for entry in read_ledger(model.folder) if entry.part == "test"]
    return ReadCount(sum(tests), len(tests) - sum(tests))


def check_untested(label: str, model: Artifact, *, again: bool) -> None:
    """Raises before test events are read where they must not be, or where that could not be recorded.

    Raises:
        AlreadyTested: the model was tested before and ``again`` is not set.
        ArtifactError: its folder cannot be written to.
    """
    if model.folder is None:
        return
    own = [e for e in read_ledger(model.folder) if e.part == "test" and e.model == model.identity]
    if own and not again:
        times = "once" if len(own) == 1 else f"{len(own)} times"
        raise AlreadyTested(
            f"{label}: its test events were read {times} already, last on {own[-1].at}; choose on "
            "validation (--part validation), or read them again with --again (again=True), which is counted"
        )
    if not os.access(model.folder, os.W_OK):
        raise ArtifactError(
            f"{model.folder}: cannot be written to, and test evaluations are recorded there; copy the folder"
        )


def record(model: Artifact, result: EvaluationResult) -> None:
    """Adds an evaluation to the record in the model's folder; nothing for a model that is in none.

    The record is replaced in one step, on disk before the call returns; writers wait for each other.
    """
    if model.folder is None:
        return
    entry = Evaluation(
        model=model.identity,
        at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        part=result.part,
        protocol=result.protocol,
        split=result.split_hash,
        queries=result.num_queries,
        metrics=result.metrics,
    )
    with _locked(model.folder):
        entries = [asdict(known) for known in [*read_ledger(model.folder), entry]]
        content: dict[str, Any] = {"kind": KIND, "format": FORMAT, "evaluations": entries}
        text = json.dumps(content, indent=1, allow_nan=False)
        with new_file(model.folder / LEDGER, draft=model.folder / LEDGER_DRAFT) as file:
            file.write(text.encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
