"""What all functions with a scratch promise alike: its size, and that they stay inside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chronorec import _core
from tests.support.graphs import DEGREES, random_graph
from tests.support.items import threads
from tests.support.jagged import offsets_of
from tests.support.scratch import aligned_scratch, is_intact

LENGTHS = [9, 3, 12, 1, 0, 30] * 20
EVENTS, SEQUENCES, INPUT, HIDDEN, HEADS, WIDTH, ITEMS = sum(LENGTHS), len(LENGTHS), 7, 20, 2, 12, 150


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def gru_forward() -> tuple[int, tuple[Any, ...]]:
    output, last = zeros(EVENTS, HIDDEN), zeros(SEQUENCES, HIDDEN)
    layer = zeros(2, 3, INPUT, 16), zeros(2, 3, HIDDEN, 16), zeros(2, 4, 16)
    size = _core.gru_forward_scratch(SEQUENCES, EVENTS, HIDDEN)
    states = None, None, None, None
    return size, (zeros(EVENTS, INPUT), offsets_of(LENGTHS), *layer, *states, False, output, last, None, None)


def lstm_step() -> tuple[int, tuple[Any, ...]]:
    layer = zeros(2, 4, INPUT, 16), zeros(2, 4, HIDDEN, 16), zeros(2, 4, 16)
    state = zeros(SEQUENCES, HIDDEN)
    size = _core.lstm_step_scratch(HIDDEN)
    return size, (zeros(SEQUENCES, INPUT), state, state, *layer, state.clone(), state.clone())


def lstm_backward() -> tuple[int, tuple[Any, ...]]:
    size = _core.lstm_backward_scratch(SEQUENCES, EVENTS, INPUT, HIDDEN)
    weights = zeros(4 * HIDDEN, INPUT), zeros(4 * HIDDEN, HIDDEN)
    output, saved, values = zeros(EVENTS, HIDDEN), zeros(EVENTS, 2, 5, 16), zeros(EVENTS, INPUT)
    states = None, None, None, None
    grads = zeros(EVENTS, INPUT), *(w.clone() for w in weights), None, None, None, None
    inputs = output, None, None, values, offsets_of(LENGTHS), *weights, *states, False, output, saved
    return size, (*inputs, *grads)


def attention_bias() -> tuple[Any, ...]:
    boundaries, table = torch.arange(40.0), zeros(HEADS, 41)
    times, places = torch.arange(EVENTS), zeros(EVENTS, 3)
    return (
        1.0,
        True,
        1 << 62,
        False,
        1.0,
        zeros(HEADS, 9),
        times,
        boundaries,
        table,
        places,
        boundaries,
        table,
    )


def attention_forward() -> tuple[int, tuple[Any, ...]]:
    x, size = zeros(EVENTS, HEADS, WIDTH), _core.jagged_attention_forward_scratch(SEQUENCES, EVENTS, WIDTH)
    return size, (x, x, x, offsets_of(LENGTHS), *attention_bias(), x.clone(), None)


def attention_backward() -> tuple[int, tuple[Any, ...]]:
    tables = zeros(HEADS, 9), zeros(HEADS, 41), zeros(HEADS, 41)
    columns = sum(table.numel() for table in tables)
    x = zeros(EVENTS, HEADS, WIDTH)
    size = _core.jagged_attention_backward_scratch(SEQUENCES, EVENTS, WIDTH, columns)
    grads = x.clone(), x.clone(), x.clone(), *tables
    return size, (x, x, x, x, offsets_of(LENGTHS), *attention_bias(), x, zeros(EVENTS, HEADS), *grads)


def attention_step() -> tuple[int, tuple[Any, ...]]:
    x, query = zeros(EVENTS, HEADS, WIDTH), zeros(SEQUENCES, HEADS, WIDTH)
    size = _core.jagged_attention_step_scratch(WIDTH, True)
    return size, (query, x, x, offsets_of(LENGTHS), *attention_bias(), query.clone())


def cross_entropy() -> tuple[int, tuple[Any, ...]]:
    hidden, table = zeros(64, WIDTH), zeros(ITEMS, WIDTH)
    size = _core.item_cross_entropy_scratch(64, ITEMS, 64, WIDTH, False, False, True, True, False, False)
    targets = torch.zeros(64, dtype=torch.int64)
    options = *(None,) * 5, 1.0, 0.0
    grads = hidden.clone(), table.clone(), None
    return size, (hidden, table, targets, None, torch.arange(64), *options, zeros(1), *grads)


GRAPH = random_graph([*DEGREES, 9000], 3)
GRAPH_INPUTS = zeros(3, 17, 5), zeros(3, 17), zeros(GRAPH.num_destinations, 17), zeros(GRAPH.num_edges, 17)


def graph_attention_results() -> tuple[Tensor, Tensor]:
    return zeros(GRAPH.num_destinations, 17, 5), zeros(GRAPH.num_destinations, 2, 17)


def graph_attention_forward() -> tuple[int, tuple[Any, ...]]:
    size = _core.graph_attention_scratch(GRAPH.num_destinations, GRAPH.num_edges, 17, 5)
    return size, (*GRAPH_INPUTS, GRAPH.offsets, GRAPH.sources, 0.2, *graph_attention_results())


def graph_attention_backward() -> tuple[int, tuple[Any, ...]]:
    output, softmax = graph_attention_results()
    matrices = GRAPH.offsets, GRAPH.transposed_offsets, GRAPH.destinations, GRAPH.edges
    size = _core.graph_attention_backward_scratch(GRAPH.num_destinations, 3, GRAPH.num_edges, 17, 5)
    grads = [x.clone() for x in GRAPH_INPUTS]
    return size, (output.clone(), *GRAPH_INPUTS, *matrices, 0.2, output, softmax, *grads)


def sampled_loss(shared: bool = False) -> tuple[int, tuple[Any, ...]]:
    hidden, table, targets = zeros(64, WIDTH), zeros(ITEMS, WIDTH), torch.zeros(64, dtype=torch.int64)
    negatives = torch.zeros(64, 9, dtype=torch.int64)
    if shared:
        negatives = negatives[:1].expand(64, -1)
    size = _core.item_sampled_loss_scratch(64, ITEMS, 9, 64, WIDTH, True, shared)
    options = None, None, negatives, None, None, None, 1.0, 2, 0.0
    return size, (hidden, table, targets, *options, zeros(1), hidden.clone(), table.clone(), None)


def shared_sampled_loss() -> tuple[int, tuple[Any, ...]]:
    return sampled_loss(shared=True)


CALLS: list[tuple[Callable[[], tuple[int, tuple[Any, ...]]], Callable[..., None]]] = [
    (gru_forward, _core.gru_forward),
    (lstm_step, _core.lstm_step),
    (lstm_backward, _core.lstm_backward),
    (attention_forward, _core.jagged_attention_forward),
    (attention_backward, _core.jagged_attention_backward),
    (attention_step, _core.jagged_attention_step),
    (cross_entropy, _core.item_cross_entropy),
    (sampled_loss, _core.item_sampled_loss),
    (shared_sampled_loss, _core.item_sampled_loss),
    (graph_attention_forward, _core.graph_attention_forward),
    (graph_attention_backward, _core.graph_attention_backward),
]


@pytest.mark.parametrize(("prepare", "function"), CALLS, ids=lambda f: f.__name__)
def test_thread_count_may_change_at_any_moment(
    prepare: Callable[[], tuple[int, tuple[Any, ...]]], function: Callable[..., None]
) -> None:
    """Between the question for the size and the call, and within the call."""
    over = threading.Event()

    def toggle() -> None:
        while not over.is_set():
            _core.set_num_threads(1)
            _core.set_num_threads(8)

    with threads(2):
        toggler = threading.Thread(target=toggle)
        toggler.start()
        try:
            for _ in range(60):
                size, arguments = prepare()
                scratch = aligned_scratch(size)
                function(*arguments, scratch)
                assert is_intact(scratch)
        finally:
            over.set()
            toggler.join()


@pytest.mark.parametrize(("prepare", "function"), CALLS, ids=lambda f: f.__name__)
def test_scratch_for_fewer_threads_is_enough(
    prepare: Callable[[], tuple[int, tuple[Any, ...]]], function: Callable[..., None]
) -> None:
    with threads(1):
        size, arguments = prepare()
    with threads(8):
        scratch = aligned_scratch(size)
        function(*arguments, scratch)
        assert is_intact(scratch)
        with pytest.raises(ValueError, match="scratch: wanted at least"):
            function(*arguments, scratch[: size - 64])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (_core.gru_forward_scratch, (3, 10, 5)),
        (_core.gru_step_scratch, (5,)),
        (_core.gru_backward_scratch, (3, 10, 4, 5)),
        (_core.jagged_attention_forward_scratch, (3, 10, 5)),
        (_core.jagged_attention_backward_scratch, (3, 10, 5, 7)),
        (_core.jagged_attention_step_scratch, (5, True)),
        (_core.item_topk_scratch, (3, 10, 5, 4, 0)),
        (_core.item_topk_scratch, (3, 1000, 5, 4, 8)),
        (_core.item_rank_scratch, (3,)),
        (_core.item_cross_entropy_scratch, (3, 10, 3, 4, True, True, True, True, True, True)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_sizes_of_nothing_and_less(function: Callable[..., int], arguments: tuple[int, ...]) -> None:
    assert function(*arguments) > 0
    counts = [i for i, x in enumerate(arguments) if not isinstance(x, bool)]
    for i in counts:
        for bad in (-1, -16, -(2**62)):
            with pytest.raises(ValueError, match=f"wanted (at least [01]|0, 8 or 16), got {bad}"):
                function(*arguments[:i], bad, *arguments[i + 1 :])
        if function is not _core.item_topk_scratch or i < 3:
            assert function(*arguments[:i], 0, *arguments[i + 1 :]) >= 0
    with pytest.raises(ValueError, match="k: wanted at least 1, got 0"):
        _core.item_topk_scratch(3, 10, 5, 0, 0)
