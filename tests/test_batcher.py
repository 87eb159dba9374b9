"""Requests that come together: answered together, as if each had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chronorec.artifact import Artifact
from chronorec.models import GRU4Rec
from chronorec.server import Service
from chronorec.server.batcher import Batcher
from chronorec.server.schemas import Answer, Event, Request

ITEMS = 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = GRU4Rec(ITEMS, width=16, hidden_size=16).eval()
        artifact: Artifact = model.export(pa.table({"item": np.arange(ITEMS)}))
        artifact.save(folder / name)
    service = Service({"a": folder / "a", "b": folder / "b"})
    rng = np.random.default_rng(0)
    service.append([Event(int(rng.integers(8)), int(rng.integers(ITEMS)), at) for at in range(100)])
    return service


REQUESTS = st.builds(
    Request,
    user=st.integers(0, 9),  # two of them unknown
    k=st.integers(1, ITEMS + 5),
    exclude_seen=st.sampled_from([None, True, False]),
    exclude=st.sampled_from([[], [3]]),
    at=st.sampled_from([None, 50]),
) | st.builds(Request, user=st.none(), history=st.none() | st.just([1, 2]))


@settings(max_examples=60)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=12))
def test_together_is_alone(service: Service, requests: list[Request]) -> None:
    def alone(request: Request) -> Answer | str:
        try:
            return service.recommend(request)
        except ValueError as error:
            return repr(error)

    found = [repr(one) if isinstance(one, Exception) else one for one in service.recommend_many(requests)]
    assert found == list(map(alone, requests))


def test_what_comes_in_one_turn_is_one_batch() -> None:
    batches: list[list[int]] = []

    def work(asked: Sequence[int]) -> list[int | Exception]:
        batches.append(list(asked))
        return [ValueError(number) if number == 3 else 10 * number for number in asked]

    async def ask() -> list[object]:
        batcher: Batcher[int, int] = Batcher(work, 4)
        alone = await batcher.ask(0)
        gone = asyncio.create_task(batcher.ask(9))
        tasks = [asyncio.create_task(batcher.ask(number)) for number in range(1, 6)]
        await asyncio.sleep(0)
        gone.cancel()
        return [alone, *await asyncio.gather(*tasks, return_exceptions=True)]

    found = asyncio.run(ask())
    assert batches == [[0], [9, 1, 2, 3], [4, 5]]
    assert [found[0], *found[1:3], *found[4:]] == [0, 10, 20, 40, 50]
    assert isinstance(found[3], ValueError)


def test_an_error_of_all_is_an_error_of_each() -> None:
    def work(asked: Sequence[int]) -> list[int | Exception]:
        raise RuntimeError("broken")

    async def ask() -> list[object]:
        batcher: Batcher[int, int] = Batcher(work, 4)
        return await asyncio.gather(*map(batcher.ask, range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask())] == ["broken"] * 3
