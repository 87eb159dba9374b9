"""Sessions shared by several processes, against the real server: Redis or Valkey."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec.engine import Engine, Rules, Sessions, SharedSessions
from chronorec.engine.shared_sessions import StoreError
from chronorec.models import GRU4Rec, PersonalFrequency, SequenceModel
from tests.support.logs import cycle_log, histories_of

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = [
    pytest.mark.skipif(SERVER is None, reason="needs redis-server or valkey-server (apt-get install either)"),
    pytest.mark.skipif(importlib.util.find_spec("redis") is None, reason="needs chronorec[redis]"),
]
ITEMS = 40
LATER = 10**15


class Server:
    """A server on a socket of its own that keeps every acknowledged write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "socket"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        assert SERVER is not None
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        keep = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.process = subprocess.Popen([SERVER, *options, *keep], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)

    def answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path must be short
        server = Server(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{time.monotonic_ns()}"


def engine_of(seed: int = 0, items: int = ITEMS, event_types: int = 0) -> Engine:
    torch.manual_seed(seed)
    histories = histories_of(cycle_log(items=items, events=30))
    built: SequenceModel = GRU4Rec(items, width=16, hidden_size=16, event_types=event_types).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Engine(built.export(histories.items, event_types=["view", "buy"][:event_types]))


def frequency_engine() -> Engine:
    histories = histories_of(cycle_log(items=ITEMS, events=30))
    end = histories.offsets[1:]
    return Engine(PersonalFrequency(1.0).fit(histories, end, basket=False, exclude_seen=False))


ENGINES = {"gru": engine_of(), "types": engine_of(event_types=2), "frequency": frequency_engine()}
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 1),  # process
        st.integers(0, 2),  # user
        st.integers(0, ITEMS),  # item; the last one is unknown
        st.integers(0, 20),  # time
        st.sampled_from(["append", "append", "recommend", "past", "forget"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("memory", ["1G", 1])
@settings(deadline=None, max_examples=25)
@given(story=EVENTS)
def test_answers_are_those_of_one_process(
    server: Server, kind: str, memory: Any, story: list[tuple[int, int, int, int, str]]
) -> None:
    engine, prefix = ENGINES[kind], f"story {time.monotonic_ns()}"
    shared = [SharedSessions(engine, server.url, memory=memory, prefix=prefix) for _ in range(2)]
    alone = Sessions(engine)
    for process, number, code, at, action in story:
        user: str | int = number or "a/b: c"
        if action == "append":
            item = f"item {code}"
            event = (None, "view", "buy", "wish")[(code + at + process) % 4]
            told = [one.append(user, item, at=at, event=event) for one in (shared[process], alone)]
            assert told[0] == told[1]
        elif action == "forget":
            shared[process].forget(user)
            alone.forget(user)
        else:
            how: dict[str, Any] = {"k": ITEMS, "at": at if action == "past" else LATER}
            if number == 2:
                how["rules"] = Rules(boost=[("item 3", 2.0)])
            found, wanted = shared[process].recommend(user, **how), alone.recommend(user, **how)
            assert found.items == wanted.items
            np.testing.assert_array_equal(found.scores, wanted.scores)
            assert shared[process].history(user)[0] == alone.history(user)[0]
            assert (user in shared[process]) == (user in alone)
    for one in shared:
        one.close()


def test_a_user_forgotten_and_begun_anew_is_another(server: Server, prefix: str) -> None:
    one, two = (SharedSessions(ENGINES["gru"], server.url, prefix=prefix) for _ in range(2))
    for at in range(3):
        one.append("u", f"item {at}", at=at)
    assert two.history("u")[0] == ["item 0", "item 1", "item 2"]
    assert one.forget("u")
    assert not one.forget("u")
    for at in range(5):
        one.append("u", f"item {at + 7}", at=at)
    assert two.history("u")[0] == [f"item {at + 7}" for at in range(5)]
    assert "u" in two
    assert "nobody" not in two


def test_a_reload_makes_states_anew_and_finds_items_it_did_not_know(server: Server, prefix: str) -> None:
    shared = SharedSessions(engine_of(items=12), server.url, prefix=prefix)
    assert shared.extend("u", ["item 3", "item 30"], [1, 2]) == 1
    assert shared.history("u")[0] == ["item 3"]
    shared.reload(ENGINES["gru"])
    assert shared.history("u")[0] == ["item 3", "item 30"]
    wanted = ENGINES["gru"].recommend(["item 3", "item 30"])
    assert shared.recommend("u").items == wanted.items


def test_an_update_is_shared_as_far_as_events_are(server: Server, prefix: str) -> None:
    one, two = (SharedSessions(ENGINES["gru"], server.url, prefix=prefix) for _ in range(2))
    one.append("u", "item 3", at=1)
    two.append("v", "item 3", at=1)
    events = pa.table({"user": ["u", "v", "v"], "item": ["new", "new", "item 4"], "time": [2, 2, 3]})
    found = one.update(events)
    assert (found.new_items, found.events) == (["new"], 3)
    assert one.history("v")[0] == ["item 3", "new", "item 4"]
    assert two.history("v")[0] == ["item 3", "item 4"]
    assert "new" in one.recommend("u", k=one.engine.num_items).items
    assert one.recommend("v").items == one.engine.recommend(["item 3", "new", "item 4"]).items
    assert two.recommend("v").items == ENGINES["gru"].recommend(["item 3", "item 4"]).items


def test_memory_is_bounded(server: Server, prefix: str) -> None:
    shared = SharedSessions(ENGINES["gru"], server.url, prefix=prefix, memory="64K")
    for user in range(300):
        shared.append(user, "item 1", at=1)
        shared.recommend(user)
    counts = shared.counts()
    assert 10 < counts["sessions"] < 250
    assert shared.history(0)[0] == ["item 1"]


def test_the_events_of_a_user_are_bounded(server: Server, prefix: str) -> None:
    one, two = (SharedSessions(ENGINES["gru"], server.url, prefix=prefix, most_events=10) for _ in range(2))
    for at in range(47):
        one.append("u", f"item {at % ITEMS}", at=at)
        times = two.history("u")[1].tolist()
        assert times == list(range(times[0], at + 1))
        assert min(at + 1, 10) <= len(times) <= 20
    one.extend("u", ["item 1"] * 50, range(100, 150))
    assert two.history("u")[1].tolist() == list(range(140, 150))


def test_idle_users_are_forgotten(server: Server, prefix: str) -> None:
    import datetime

    short = datetime.timedelta(seconds=1)
    shared = SharedSessions(ENGINES["gru"], server.url, prefix=prefix, forget_after=short)
    shared.append("u", "item 1", at=1)
    assert "u" in shared
    time.sleep(1.3)
    assert "u" not in shared
    assert shared.counts()["sessions"] == 0


WORKER = """
import sys
from chronorec.engine import Engine, SharedSessions
url, prefix, folder, name = sys.argv[1:]
shared = SharedSessions(Engine.load(folder), url, prefix=prefix)
print("ready", flush=True)
sys.stdin.readline()
for at in range(300):
    user = at % 3
    shared.append(user, f"item {(7 * at + int(name)) % 40}", at=1000 * (at % 50) + int(name))
    if at % 5 == 0:
        shared.recommend(user, k=3)
for user in range(3):
    print(*shared.recommend(user, k=40).scores.tolist(), flush=True)  # as far as told
sys.stdin.readline()
for user in range(3):
    answer = shared.recommend(user, k=40)
    print("|".join(answer.items), *answer.scores.tolist(), sep=";", flush=True)
"""


def test_two_processes_at_once(server: Server, prefix: str, tmp_path: Path) -> None:
    engine = ENGINES["gru"]
    engine.artifact.save(tmp_path / "model")
    command = [sys.executable, "-c", WORKER, server.url, prefix, str(tmp_path / "model")]
    workers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "12"
    ]

    def lines(worker: Any, count: int) -> list[str]:
        return [worker.stdout.readline().strip() for _ in range(count)]

    try:
        for step, count in ((0, 1), (1, 3)):
            for worker in workers:
                assert all(lines(worker, count)), f"step {step}"
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
        answers = [lines(worker, 3) for worker in workers]
    finally:
        for worker in workers:
            worker.communicate(timeout=20)
    events: dict[int, set[tuple[int, str]]] = {0: set(), 1: set(), 2: set()}
    for name in (1, 2):
        for at in range(300):
            events[at % 3].add((1000 * (at % 50) + name, f"item {(7 * at + name) % 40}"))
    late = SharedSessions(engine, server.url, prefix=prefix)
    for user, told in events.items():
        times = [at for at, _ in sorted(told, key=lambda event: event[0])]
        assert late.history(user)[1].tolist() == times  # each once, in order
        assert set(zip(times, late.history(user)[0], strict=True)) == told
        wanted = late.recommend(user, k=ITEMS)
        for answer in answers:
            items, *scores = answer[user].split(";")
            assert items.split("|") == wanted.items
            np.testing.assert_allclose([float(score) for score in scores], wanted.scores, rtol=1e-5)


def test_threads(server: Server, prefix: str) -> None:
    shared = SharedSessions(ENGINES["gru"], server.url, prefix=prefix, memory="16K")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for at in range(60):
                shared.append(at % 7, f"item {(at + number) % ITEMS}", at=at * 4 + number)
                shared.recommend((at + number) % 7)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for user in range(7):
        assert len(shared.history(user)[0]) == 4 * len(range(user, 60, 7))


def test_gone_and_back(prefix: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server = Server(Path(folder))
        try:
            shared = SharedSessions(ENGINES["gru"], server.url, prefix=prefix)
            assert shared.append("u", "item 1", at=1)
            shared.recommend("u")
            server.kill()
            with pytest.raises(StoreError, match="does not answer"):
                shared.append("u", "item 2", at=2)
            with pytest.raises(StoreError, match="does not answer"):
                shared.recommend("u")
            server.start()
            assert shared.history("u")[0] == ["item 1"]
            assert shared.append("u", "item 2", at=2)
            assert shared.recommend("u").items == ENGINES["gru"].recommend(["item 1", "item 2"]).items
        finally:
            server.kill()


def test_refusals(server: Server, prefix: str) -> None:
    import redis

    shared = SharedSessions(ENGINES["gru"], server.url, prefix=prefix)
    for user in (True, 2.5, None):
        with pytest.raises(TypeError, match="user: wanted a text or a whole number"):
            shared.append(user, "item 1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="item: wanted a text or a whole number, got b'x'"):
        shared.append("u", b"x")
    with pytest.raises(ValueError, match="at: wanted microseconds"):
        shared.append("u", "item 1", at=2**62)
    with pytest.raises(ValueError, match=r"events: wanted one per item \(1\), got 2"):
        shared.extend("u", ["item 1"], [1], ["view", "buy"])
    with pytest.raises(ValueError, match="times: wanted one per item"):
        shared.extend("u", ["item 1"], [])
    assert "u" not in shared
    client = redis.Redis.from_url(server.url)
    for entry in (b"nonsense", b"[1]", b'["item 1", "late"]', b'[{"a": 1}, 2]', b'["item 1", 1e99]'):
        client.delete(f"{prefix}:text:u")
        client.rpush(f"{prefix}:text:u", "life", entry)
        with pytest.raises(StoreError, match="not a list of events"):
            shared.recommend("u")
    client.set(f"{prefix}:text:v", "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        shared.append("v", "item 1")


def test_two_http_servers(server: Server, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from chronorec.server import Service, make_app

    engine_of(0).artifact.save(tmp_path / "one")
    engine_of(1, items=12).artifact.save(tmp_path / "two")
    models = {"one": tmp_path / "one", "two": tmp_path / "two"}
    with (
        TestClient(make_app(Service(models, shared=server.url))) as here,
        TestClient(make_app(Service(models, shared=server.url))) as there,
    ):
        body = {"events": [{"user": 5, "item": f"item {code}", "at": code} for code in (3, 30, 99)]}
        told = here.post("/v1/events", json=body).json()
        assert told == {"accepted": 2, "unknown_items": 1, "repeated": 0, "unknown_types": 0}
        answers = [side.post("/v1/recommend", json={"user": 5}).json() for side in (here, there)]
        assert answers[0] == answers[1]
        assert answers[0]["source"] == "session"
        history = ["item 3", "item 30"][: 2 if answers[0]["variant"] == "one" else 1]
        engine = Engine.load(models[answers[0]["variant"]])
        assert answers[0]["items"] == engine.recommend(history).items
        assert there.delete("/v1/users/number/5").json() == {"forgotten": True}
        assert here.post("/v1/recommend", json={"user": 5}).json()["source"] == "model"


def test_a_server_without_its_store_says_so(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from chronorec.server import Service, make_app

    ENGINES["gru"].artifact.save(tmp_path / "model")
    service = Service({"model": tmp_path / "model"}, shared=f"unix://{tmp_path}/nobody")
    with TestClient(make_app(service)) as client:
        for path, body in (
            ("/v1/events", {"events": [{"user": 1, "item": "item 1"}]}),
            ("/v1/recommend", {"user": 1}),
        ):
            refused = client.post(path, json=body)
            assert refused.status_code == 503
            assert "the store of sessions does not answer" in refused.json()["error"]
        assert client.delete("/v1/users/number/1").status_code == 503
        assert client.post("/v1/recommend", json={"history": ["item 1"]}).status_code == 200


def test_an_event_counts_once_by_its_id(server: Server, prefix: str) -> None:
    """Whatever process it was told to, and whichever of its users was forgotten meanwhile."""
    first, second = (SharedSessions(engine_of(), server.url, prefix=prefix) for _ in "ab")
    told = [(7, "item 3", 1, None), (8, "item 4", 1, "buy"), (7, "item 5", 2, None), (7, "nothing", 3, None)]
    ids = ["a", 1, "1", None]
    assert first.tell(told, ids) == [True, True, True, False]
    assert second.tell([(7, "item 3", 9, None), *told[1:]], ids) == [None, None, None, False]
    assert second.history(7)[0] == ["item 3", "item 5"]
    assert first.tell([(9, "item 3", 1, None), (9, "item 4", 2, None)], ["x", "x"]) == [True, None]
    first.forget(7)
    assert second.tell(told[:1], ids[:1]) == [None]
    assert 7 not in second
