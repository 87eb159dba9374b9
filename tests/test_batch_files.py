"""Answers to files of requests: the numbers of single requests, in bounded memory, whole or not at all."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chronorec.cli import main
from chronorec.data import EventLog, Histories
from chronorec.data.errors import DataError
from chronorec.data.profile import Profile
from chronorec.engine import Engine, recommend_file, recommend_stream
from chronorec.engine.batch_files import ROWS
from chronorec.engine.fallback import with_popularity
from chronorec.models import GRU4Rec, PersonalFrequency
from tests.support.logs import cycle_log, histories_of

AT = "1970-02-01"
FEW = 60  # users


@pytest.fixture(scope="module")
def histories() -> Histories:
    return histories_of(cycle_log(users=FEW, events=8, items=30))


@pytest.fixture(scope="module", params=["gru", "frequency"])
def engine(request: pytest.FixtureRequest, histories: Histories) -> Engine:
    torch.manual_seed(0)
    begin, end = histories.offsets[:-1], histories.offsets[1:]
    if request.param == "gru":
        model = GRU4Rec(histories.num_items, width=8, hidden_size=8)
        artifact = model.eval().export(histories.items)
    else:
        artifact = PersonalFrequency(3.0).fit(histories, end, basket=False, exclude_seen=False)
    return Engine(with_popularity(artifact, histories, begin, end, 30))


def requests(count: int, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 6, count)
    items = [[f"item {i}" for i in generator.integers(0, 33, n)] for n in lengths.tolist()]
    times = [np.sort(generator.integers(0, 10**12, n)).tolist() for n in lengths.tolist()]
    kind = pa.list_(pa.timestamp("us"))
    user = pa.array([f"user {i}" for i in range(count)]).dictionary_encode()
    return pa.table({"items": items, "user": user, "times": pa.array(times, kind), "note": range(count)})


def write(table: pa.Table, path: Path) -> Path:
    """As one row group, one batch, or a folder of files."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=len(table))
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        path.mkdir()
        pq.write_table(table.slice(0, 2), path / "a.parquet")
        pq.write_table(table.slice(2), path / "b.parquet")
    return path


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.mark.parametrize("source", ["requests.parquet", "requests.arrow", "folder"])
@pytest.mark.parametrize("target", ["answers.parquet", "answers.arrow"])
def test_files_say_what_single_requests_say(engine: Engine, source: str, target: str, tmp_path: Path) -> None:
    asked = requests(40)
    how: dict[str, Any] = {"k": 4, "exclude_seen": True, "exclude": ["item 3"]}
    path = write(asked, tmp_path / source)
    assert recommend_file(engine, path, tmp_path / target, at=AT, quiet=True, **how) == 40
    rows = read(tmp_path / target).to_pylist()
    for row, question in zip(rows, asked.to_pylist(), strict=True):
        alone = engine.recommend(question["items"], times=question["times"], at=AT, **how)
        assert (row["user"], row["note"]) == (question["user"], question["note"])
        assert row["items"] == alone.items
        assert np.array(row["scores"], np.float32).tobytes() == alone.scores.tobytes()
        assert (row["unknown_items"], row["source"]) == (alone.unknown_items, alone.source)
        assert row["reason"] == alone.reason
    assert {row["source"] for row in rows} == {"history", "recent popularity"}


def test_all_users_of_a_histories_folder(engine: Engine, histories: Histories, tmp_path: Path) -> None:
    histories.save(tmp_path / "histories")
    recommend_file(engine, tmp_path / "histories", tmp_path / "a.parquet", at=AT, k=3, quiet=True)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    ids = histories.items.column("item")
    for user, row in enumerate(rows):
        own = slice(*histories.offsets[user : user + 2].tolist())
        items = ids.take(histories.item[own]).to_pylist()
        alone = engine.recommend(items, times=histories.time[own].tolist(), at=AT, k=3)
        assert (row["user"], row["items"]) == (histories.users.column("user")[user].as_py(), alone.items)
        assert np.array(row["scores"], np.float32).tobytes() == alone.scores.tobytes()
    assert len(rows) == histories.num_users


def typed_histories() -> Histories:
    """Ten users with event types and a team."""
    log = cycle_log(users=10, events=6)
    kinds = np.array(["view", "buy"])[np.random.default_rng(0).integers(0, 2, len(log))]
    users = {"user_id": np.arange(10), "team": ["red", "blue"] * 5}
    log = log.append_column("kind", pa.array(kinds))
    return EventLog.read(log, event_type="kind").histories(users=pa.table(users))


def test_histories_bring_their_types_and_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    histories = typed_histories()
    histories.save(tmp_path / "histories")
    profile = Profile.of_users(histories.users, ["team"])
    torch.manual_seed(0)
    model = GRU4Rec(histories.num_items, width=8, event_types=2, profile=[2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    exported = model.eval().export(
        histories.items, event_types=list(histories.event_types), profile=profile.to_plain()
    )
    exported.save(tmp_path / "model")
    engine = Engine(exported)
    recommend_file(engine, tmp_path / "histories", tmp_path / "answers.arrow", at=AT, k=5, quiet=True)
    answers = read(tmp_path / "answers.arrow").to_pylist()
    types = [histories.event_types[code] for code in histories.columns["event_type"]]
    for user, answer in enumerate(answers):
        events = slice(*histories.offsets[user : user + 2].tolist())
        items = histories.items.column("item").take(pa.array(histories.item[events])).to_pylist()
        own = {"team": histories.users.column("team")[user].as_py()}
        how: dict[str, Any] = {"times": histories.time[events].tolist(), "at": AT, "k": 5}
        single = engine.recommend(items, events=types[events], profile=own, **how)
        assert answer["items"] == single.items
        np.testing.assert_array_equal(np.float32(answer["scores"]), single.scores)
        for less in ({"profile": own}, {"events": types[events]}):
            assert not np.array_equal(engine.recommend(items, **less, **how).scores, single.scores)
        told = ["recommend", str(tmp_path / "model"), "--data", str(tmp_path / "histories")]
        main([*told, "--user", str(answer["user"]), "--at", AT, "-k", "5", "--json"])
        assert json.loads(capsys.readouterr().out)["scores"] == pytest.approx(single.scores.tolist())


def test_a_piece_of_histories_is_bounded_by_its_events(
    engine: Engine, histories: Histories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories.save(tmp_path / "histories")
    whole = recommend_stream(engine, tmp_path / "histories", at=AT).read_all()
    monkeypatch.setattr("chronorec.engine.batch_files._EVENTS", 20)
    pieces = list(recommend_stream(engine, tmp_path / "histories", at=AT))
    assert {batch.num_rows for batch in pieces} == {2}
    assert pa.Table.from_batches(pieces).equals(whole)


@pytest.mark.parametrize("kind", ["stream", "parquet"])
def test_memory_does_not_grow_with_the_requests(engine: Engine, kind: str, tmp_path: Path) -> None:
    """Arrow's own memory, looked at between the pieces, of 80 times as many requests as fit in a piece."""
    piece = requests(ROWS)
    held: list[int] = []

    def pieces() -> Iterator[pa.RecordBatch]:
        for _ in range(80):
            held.append(pa.total_allocated_bytes())
            yield from piece.combine_chunks().to_batches()

    source: Any = pa.RecordBatchReader.from_batches(piece.schema, pieces())
    if kind == "parquet":
        source = tmp_path / "requests.parquet"
        small = piece.select(["items", "times"])
        with pq.ParquetWriter(source, small.schema) as writer:
            writer.write_table(pa.concat_tables([small] * 80), row_group_size=80 * ROWS)
    answers = recommend_stream(engine, source, at=AT, k=10, candidates=["item 1", "item 2"])
    rows = 0
    before = pa.total_allocated_bytes()
    for batch in answers:
        rows += batch.num_rows
        held.append(pa.total_allocated_bytes())
    assert rows == 80 * ROWS
    assert max(held) - before < 80 * piece.nbytes / 5


def test_what_is_there_stays_until_the_new_file_is_complete(engine: Engine, tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from requests(5).combine_chunks().to_batches()
        raise OSError("the disk is gone")

    target = tmp_path / "answers.parquet"
    recommend_file(engine, requests(2), target, at=AT, quiet=True)
    before = target.read_bytes()
    source = pa.RecordBatchReader.from_batches(requests(5).schema, broken())
    with pytest.raises(DataError, match="the disk is gone"):
        recommend_file(engine, source, target, at=AT, quiet=True)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_no_requests_no_answers(engine: Engine, tmp_path: Path) -> None:
    for target in ("a.parquet", "a.arrow"):
        assert recommend_file(engine, requests(3).slice(0, 0), tmp_path / target, at=AT, quiet=True) == 0
        assert read(tmp_path / target).schema.names[:2] == ["user", "note"]


def test_all_are_asked_at_one_moment(histories: Histories) -> None:
    """However long the file takes: a model that uses time gives equal requests equal answers."""
    artifact = PersonalFrequency(1e-9).fit(histories, histories.offsets[1:], basket=False, exclude_seen=False)
    now = datetime.datetime.now(datetime.timezone.utc)
    one = pa.table({"items": [["item 1"]], "times": [[now]]})
    answers = recommend_stream(Engine(artifact), pa.concat_tables([one] * 3 * ROWS), k=1)
    scores = {batch.column("scores").to_pylist()[row][0] for batch in answers for row in (0, -1)}
    assert len(scores) == 1


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ({"item": [["item 1"]]}, "a.parquet", "wanted a column 'items', got item"),
        ({"items": [["item 1"]], "scores": [1]}, "a.parquet", "scores is a name of the answers"),
        ({"items": ["item 1"]}, "a.arrow", "items: wanted a list per request, got string"),
        ({"items": [["item 1"]]}, "a.csv", "target: wanted a name that ends in .parquet, .pq, .arrow"),
    ],
)
def test_unusable_files(engine: Engine, source: dict, target: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recommend_file(engine, pa.table(source), tmp_path / target, at=AT, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line(
    engine: Engine, histories: Histories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data, target = (tmp_path / name for name in ("model", "histories", "answers.parquet"))
    engine.artifact.save(model)
    histories.save(data)
    arguments = ["recommend", model, "--batch", data, "-o", target, "--at", AT, "-k", "3", "--quiet"]
    assert main([str(one) for one in arguments]) == 0
    assert "answers to 60 requests" in capsys.readouterr().out
    expected = recommend_stream(engine, data, at=AT, k=3).read_all()
    assert pq.read_table(target).equals(expected)
    for wrong, message in ((["--json"], "not with --batch"), (["--batch"], "")):
        with_wrong = [*map(str, arguments), *wrong]
        if wrong == ["--batch"]:
            with_wrong = [str(one) for one in arguments if one not in ("-o", target)]
            message = "wanted both or neither"
        assert main(with_wrong) == 1
        assert message in capsys.readouterr().err


def test_progress_without_an_end() -> None:
    from chronorec.progress import Progress

    progress = Progress("model", None, "requests", shown=False)
    progress.advance(2500)
    assert list(itertools.islice(progress.line().split("  "), 2)) == ["model", "2.5 k requests"]
