"""A history in segments has the states of the whole one, needs the memory of a segment, and is served."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec.data.jagged import offsets_of, ranges
from chronorec.data.segments import EventSegments
from chronorec.engine import Engine, Sessions
from chronorec.models import HSTU, SASRec, SequenceModel, Sequences
from chronorec.nn import SegmentMemory, attention, hstu
from chronorec.ops.reference.jagged_attention import jagged_attention
from chronorec.training import Config, load_config
from chronorec.training.config import ConfigError
from chronorec.training.loop import Loop
from tests.support.budget import assert_within_budget
from tests.support.histories import make_histories
from tests.support.logs import cycle_log, histories_of

HOUR = 3_600_000_000
ITEMS = 12
RELATIVE = {"position": "relative", "memory": True}
MODELS: dict[str, tuple[type[SequenceModel], dict[str, Any]]] = {
    "sasrec": (SASRec, RELATIVE | {"block": "ligr"}),
    "sasrec with times": (
        SASRec,
        RELATIVE | {"time_bias": True, "time_features": True, "request_time": True},
    ),
    "hstu": (HSTU, {"memory": True, "blocks": 3}),
    "hstu by position": (HSTU, {"memory": True, "time_bias": False}),
}


def make_model(name: str, window: int, items: int = ITEMS) -> SequenceModel:
    """A model in which every weight matters."""
    torch.manual_seed(1)
    kind, options = MODELS[name]
    model = kind(items, width=8, max_length=window, dropout=0.0, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


class Histories:
    """Random histories of these ``lengths``, at irregular times."""

    def __init__(self, lengths: list[int]) -> None:
        generator = np.random.default_rng(0)
        self.offsets = offsets_of(np.array(lengths))
        count = int(self.offsets[-1])
        self.items = generator.integers(0, ITEMS, count)
        self.times = np.cumsum(generator.integers(1, 30, count) ** 2) * HOUR // 10
        self.asked = self.times + generator.integers(1, 50, count) * HOUR

    def part(self, begin: np.ndarray, sizes: np.ndarray) -> Sequences:
        rows = ranges(begin, sizes)
        items, times, asked = (torch.from_numpy(x[rows]) for x in (self.items, self.times, self.asked))
        return Sequences(items, torch.from_numpy(offsets_of(sizes)), None, times, asked)

    def whole(self) -> Sequences:
        return self.part(self.offsets[:-1], np.diff(self.offsets))


@torch.no_grad()
def in_segments(
    model: SequenceModel, histories: Histories, longest: int, seed: int = 0, checkpoint: bool = False
) -> Tensor:
    """States of all tokens; segments have 1 to ``longest``, rows change their places, some begin late."""
    generator = np.random.default_rng(seed)
    memory = model.segment_memory()
    assert memory is not None
    states = torch.full((int(histories.offsets[-1]), 8), torch.nan, dtype=model.item_embedding.dtype)
    done, end = histories.offsets[:-1].copy(), histories.offsets[1:]
    last_rows = np.zeros(0, np.int64)
    while (done < end).any():
        # a history that was begun goes on; another one may begin
        going = (done < end) & ((done > histories.offsets[:-1]) | (generator.random(len(done)) < 0.5))
        rows = generator.permutation(np.flatnonzero(going))
        if not len(rows):
            continue
        sizes = np.minimum(generator.integers(1, longest + 1, len(rows)), (end - done)[rows])
        places = [np.flatnonzero(last_rows == row) for row in rows]
        previous = np.array([place[0] if len(place) else -1 for place in places])
        part = histories.part(done[rows], sizes)
        if checkpoint:
            restored = model.segment_memory()
            if len(last_rows):
                restored.load_state_dict({k: v.clone() for k, v in memory.state_dict().items()})
            memory = restored
        memory.begin(previous, part.offsets.numpy(), part.times.numpy())
        states[torch.from_numpy(ranges(done[rows], sizes))] = model(part._replace(memory=memory))
        done[rows] += sizes
        last_rows = rows
    return states


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Modules call the reference, in plain torch, instead of the kernel."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (attention, hstu):
            patch.setattr(module, "jagged_attention", jagged_attention)
        yield


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    window=st.integers(1, 7),
    longest=st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_segments_have_the_states_of_the_whole(
    name: str, lengths: list[int], window: int, longest: int, seed: int
) -> None:
    """In float64, so that what differs is not rounding."""
    model, histories = make_model(name, window).double(), Histories(lengths)
    with plain_attention():
        whole = model(histories.whole())
        found = in_segments(model, histories, longest, seed, checkpoint=seed % 2 == 0)
    assert_within_budget(found.float(), whole.float(), whole, name)


@pytest.mark.parametrize("name", ["sasrec with times", "hstu"])
def test_ten_thousand_events_in_segments_whole_and_served(name: str) -> None:
    """Training in segments, the engine on the last events, and a session fed event by event: one function."""
    count = 10_000
    log = histories_of(cycle_log(items=ITEMS))
    model, histories = make_model(name, 9), Histories([count])
    histories.asked[:] = histories.times + 5 * HOUR
    with plain_attention():  # which takes the square of the length; no state knows more than the last 26
        twins = (copy.deepcopy(model).to(dtype) for dtype in (torch.float32, torch.float64))
        last = histories.part(np.array([count - 100]), np.array([100]))
        wanted = [twin.scores(last) for twin in twins]
    with torch.no_grad():
        assert_within_budget(model.scores(histories.whole()), *wanted, "whole")
        trained = in_segments(model, histories, 400)[-1:] @ model.output_table.T
        assert_within_budget(trained, *wanted, "segments")

    engine = Engine(model.export(log.items))
    assert engine.artifact.max_length <= 26
    names = np.array(log.items.column("item").to_pylist())
    history, times = names[histories.items].tolist(), histories.times.tolist()
    at = int(histories.asked[-1])
    sessions = Sessions(engine)
    for item, time in zip(history, times, strict=True):
        sessions.append("user", item, at=time)
    answers = {
        "engine": engine.recommend(history, times=times, at=at, k=ITEMS, exclude_seen=False),
        "session": sessions.recommend("user", at=at, k=ITEMS, exclude_seen=False),
    }
    for how, answer in answers.items():
        scores = dict(zip(answer.items, answer.scores.tolist(), strict=True))
        found = torch.tensor([[scores[item] for item in names]])
        assert_within_budget(found, *wanted, how)


def config_of(*overrides: str) -> Config:
    common = ["training.batch_tokens=64", "training.warmup_steps=0", "model.width=8", "model.max_length=9"]
    return load_config(overrides=[*common, "model.kind=hstu", "model.memory=true", *overrides])


def bytes_of_an_epoch(events: int) -> int:
    """The most that a batch keeps for its gradient and for the next one, over an epoch of one history."""
    histories = make_histories([np.arange(events) % ITEMS], [np.arange(events) * HOUR], None, ITEMS)
    model, config = make_model("hstu", 9), config_of()
    batches = EventSegments(
        histories, histories.offsets[:-1], histories.offsets[1:], max_length=25, batch_events=64
    )
    counts = np.bincount(histories.item, minlength=ITEMS)
    loop = Loop(
        model,
        batches,
        counts,
        config.loss,
        config.training,
        validate=None,
        stop_after=1,
        checkpoint=None,
        fingerprint="",
        label="",
        unit="events",
        quiet=True,
    )
    most = 0
    for batch in batches.epoch(0):
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = loop.batch_loss(batch)
        loss.backward()
        assert loop.memory is not None
        kept = loop.memory.state_dict().values()
        assert not any(tensor.requires_grad for tensor in kept)
        most = max(most, sum(saved.values()) + sum(tensor.nbytes for tensor in kept))
    return most


def test_memory_does_not_grow_with_the_history() -> None:
    assert bytes_of_an_epoch(10_000) == bytes_of_an_epoch(1_000)


def test_a_memory_reaches_the_weights_but_not_earlier_segments() -> None:
    """Keys and values of remembered tokens are made anew: their weights learn, the tokens do not."""
    memory, weight = SegmentMemory(4, 1), torch.ones(2, requires_grad=True)
    first, second = torch.ones(3, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    memory.begin(np.array([-1]), np.array([0, 3]), None)
    memory.join(0, first)
    memory.begin(np.array([0]), np.array([0, 1]), None)
    joined = memory.join(0, second)
    assert joined.shape == (4, 2)
    (joined * weight).sum().backward()
    assert first.grad is None
    assert second.grad is not None
    assert weight.grad is not None
    assert weight.grad.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.kind=sasrec"], "wanted model.position = 'relative' beside it"),
        (["model.kind=bert4rec"], "bert4rec has none"),
        (["model.copy=true"], "wanted without model.copy"),
    ],
)
def test_where_there_is_no_memory(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*overrides)
