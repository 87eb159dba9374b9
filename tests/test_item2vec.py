"""Item vectors of gensim's Word2Vec as the start of an item table."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
import torch

from chronorec.models import GRU4Rec, LogBilinear
from chronorec.training import load_config, train
from chronorec.training.item2vec import item2vec, start_from_item2vec
from tests.support.histories import ListHistories, make_histories
from tests.support.logs import cycle_log, histories_of

GROUP, GROUPS = 6, 3


def grouped(users: int = 90, events: int = 12, unused: int = 2) -> ListHistories:
    """Every user stays in one of three groups of items; the last items come in no history."""
    generator = np.random.default_rng(0)
    rows = [(user % GROUPS * GROUP + generator.integers(0, GROUP, events)).tolist() for user in range(users)]
    return dataclasses.replace(make_histories(rows), num_items=GROUP * GROUPS + unused)


def trained(
    histories: Any, seed: int = 0, width: int = 8, most: int = 10**6
) -> tuple[np.ndarray, np.ndarray]:
    pytest.importorskip("gensim")
    begin = histories.offsets[:-1]
    codes, vectors = item2vec(
        histories, begin, np.minimum(histories.offsets[1:], begin + most), width=width, seed=seed
    )
    order = codes.argsort()
    return codes[order], vectors[order]


def test_items_of_one_company_lie_together() -> None:
    codes, vectors = trained(grouped())
    assert codes.tolist() == list(range(GROUP * GROUPS))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    same = codes[:, None] // GROUP == codes // GROUP
    similarity = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    same = same[~np.eye(len(unit), dtype=bool)]
    assert similarity[same].min() > similarity[~same].max()


def test_a_function_of_training_events_and_seed() -> None:
    """What comes after the training range changes nothing."""
    histories = grouped()
    _, vectors = trained(histories, most=8)
    changed = histories.item.reshape(-1, 12).copy()
    changed[:, 8:] = (changed[:, 8:] + 5) % (GROUP * GROUPS)
    _, again = trained(dataclasses.replace(histories, item=changed.reshape(-1)), most=8)
    assert np.array_equal(vectors, again)
    assert not np.array_equal(vectors, trained(histories, seed=1, most=8)[1])
    assert not np.array_equal(vectors, trained(histories)[1])


def test_all_of_a_long_history_is_read() -> None:
    """gensim itself would leave what comes after 10,000 events as it was drawn: within half a unit."""
    _, vectors = trained(make_histories([[*range(1000)] * 11 + [*range(1000, 1100)] * 10]), width=2)
    assert (np.abs(vectors) * 2 > 0.5).any(axis=1).mean() > 0.99


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_keeps_its_spread_and_what_has_no_event(tied: bool) -> None:
    pytest.importorskip("gensim")
    histories = grouped()
    model = GRU4Rec(histories.num_items, width=8, tied=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from_item2vec(model, histories, histories.offsets[:-1], histories.offsets[1:], seed=0, quiet=True)
    after = model.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert changed == ["item_embedding"]
    table, old = after["item_embedding"], before["item_embedding"]
    assert torch.equal(table[GROUP * GROUPS :], old[GROUP * GROUPS :])
    assert 0.5 < table.std() / old.std() < 2


def test_a_run_starts_from_the_vectors_and_repeats() -> None:
    pytest.importorskip("gensim")
    histories = histories_of(cycle_log(users=10))
    common = ["model.kind=log-bilinear", "model.width=8", "training.epochs=1", "training.learning_rate=1e-12"]

    def table(on: bool) -> np.ndarray:
        config = load_config(overrides=[*common, f"training.item2vec={str(on).lower()}"])
        return train(config, histories, quiet=True).artifact.weights["item_embedding"]

    assert np.array_equal(table(True), table(True))
    model = LogBilinear(histories.num_items, width=8)
    assert not np.allclose(table(True), table(False), atol=model.item_embedding.std().item() / 10)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    histories = make_histories([[0, 1]])
    with pytest.raises(
        ImportError, match=r"training\.item2vec needs gensim: pip install 'chronorec\[item2vec\]'"
    ):
        item2vec(histories, histories.offsets[:-1], histories.offsets[1:], width=2)
