"""The public functions on CUDA tensors: the results of the CPU, and what a GPU's user expects of them: no
waiting, capture in a CUDA graph, compilation as a whole. Properties of each kernel are held by tests/simt and
tests/triton, by the same ``pytest --device cuda``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from chronorec import ops
from chronorec.ops import AttentionBias, ItemAdjustment
from tests.support.graphs import random_graph
from tests.support.jagged import offsets_of

Call = Callable[..., tuple[Tensor, ...]]
Problem = tuple[Call, list[Tensor]]  # a function of tensors; those that are floating are leaves

LENGTHS = [50, 0, 1, 200, 63, 7, 129]
EVENTS, HEADS, WIDTH, ITEMS = sum(LENGTHS), 2, 32, 3_000


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention(activation: str) -> Problem:
    times = torch.arange(EVENTS) * 977
    rows = [normal(EVENTS, HEADS, WIDTH, seed=i) for i in range(3)]
    tables = [normal(HEADS, 40), normal(HEADS, 17)]
    rest = [offsets_of(LENGTHS), times, 2.0 ** torch.arange(16)]

    def call(*x: Tensor) -> tuple[Tensor, ...]:
        bias = AttentionBias(x[3], x[6], x[7], x[4])
        divisor = 200.0 if activation == "silu" else 1.0
        return (ops.jagged_attention(*x[:3], x[5], bias=bias, activation=activation, divisor=divisor),)

    return call, [*rows, *tables, *rest]


def loss(negatives: int | None) -> Problem:
    hidden, table, bias = normal(EVENTS, WIDTH), normal(ITEMS, WIDTH, seed=1) / 4, normal(ITEMS, seed=2)
    targets = torch.randint(ITEMS, (EVENTS,), generator=torch.Generator().manual_seed(3))
    if negatives is None:
        return lambda h, t, b, y: (ops.item_cross_entropy(h, t, y, bias=b),), [hidden, table, bias, targets]
    drawn = torch.randint(ITEMS, (EVENTS, negatives), generator=torch.Generator().manual_seed(4))

    def call(h: Tensor, t: Tensor, b: Tensor, y: Tensor, drawn: Tensor) -> tuple[Tensor, ...]:
        return (ops.item_cross_entropy(h, t, y, bias=b, loss="gbce", negatives=drawn),)

    return call, [hidden, table, bias, targets, drawn]


def graph(op: str) -> Problem:
    nodes, degrees = 300, [0, 3, 7, 1200, 33, 1, *[5] * 294]
    edges = random_graph(degrees, nodes)
    if op == "graph_aggregate":
        inputs = [normal(nodes, WIDTH), normal(edges.num_edges)]
    else:
        inputs = [normal(nodes, HEADS, 16), normal(nodes, HEADS, seed=1), normal(nodes, HEADS, seed=2)]
    graphs = {
        device: ops.make_graph(edges.offsets.to(device), edges.sources.to(device), nodes)
        for device in ("cpu", "cuda")
    }

    def call(*x: Tensor) -> tuple[Tensor, ...]:
        made = graphs[x[0].device.type]
        if op == "graph_aggregate":
            return (ops.graph_aggregate(x[0], made, x[1]),)
        return (ops.graph_attention(*x, made),)

    return call, inputs


def recurrent(op: str, hidden: int = 48) -> Problem:
    gates = {"gru": 3, "lstm": 4, "rnn": 1}[op] * hidden
    weights = [normal(gates, n, seed=n) / n**0.5 for n in (WIDTH, hidden)]
    biases = [normal(gates, seed=i) for i in range(2)]

    def call(values: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        *weights, offsets = rest
        return tuple(getattr(ops, op)(values, offsets, *weights))

    return call, [normal(EVENTS, WIDTH), *weights, *biases, offsets_of(LENGTHS)]


def search(op: str) -> Problem:
    # whole numbers, so that every order of a sum gives the same
    queries, table, bias = ((4 * normal(*n)).round() for n in ((64, WIDTH), (ITEMS, WIDTH), (ITEMS,)))
    targets = torch.arange(64)
    seen = torch.arange(0, 64 * 7, 7)[None].expand(64, 64).flatten()
    rest = [targets, torch.arange(65) * 64, seen]

    def call(q: Tensor, t: Tensor, b: Tensor, y: Tensor, ends: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        adjust, packed = ItemAdjustment(ends, seen), ops.pack_items(t)
        if op == "item_rank":
            return tuple(ops.item_rank(q, packed, y, bias=b, adjust=adjust))
        return tuple(ops.item_topk(q, packed, 20, bias=b, adjust=adjust))

    return call, [queries, table, bias, *rest]


DIFFERENTIABLE: dict[str, Problem] = {
    "jagged_attention softmax": attention("softmax"),
    "jagged_attention silu": attention("silu"),
    "item_cross_entropy full": loss(None),
    "item_cross_entropy gbce": loss(32),
    "gru": recurrent("gru"),
    "gru of many units": recurrent("gru", 600),
    "lstm": recurrent("lstm"),
    "rnn": recurrent("rnn"),
    "graph_aggregate": graph("graph_aggregate"),
    "graph_attention": graph("graph_attention"),
}
PROBLEMS = DIFFERENTIABLE | {name: search(name) for name in ("item_rank", "item_topk")}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


@pytest.fixture
def waiting_is_an_error() -> Iterator[Callable[[], None]]:
    """From its call on, for the rest of the test."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def results(name: str, device: str) -> list[Tensor]:
    """Outputs and, of a differentiable op, gradients for a fixed gradient of the output."""
    call, inputs = PROBLEMS[name]
    return outputs_and_gradients(name, call, [x.to(device) for x in inputs])


def outputs_and_gradients(name: str, call: Call, inputs: list[Tensor]) -> list[Tensor]:
    if name not in DIFFERENTIABLE:
        return list(call(*inputs))
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    outputs = call(*leaves)
    grads = [torch.ones_like(x) for x in outputs]
    learned = [x for x in leaves if x.requires_grad]
    given = torch.autograd.grad(outputs, learned, grads, allow_unused=True)
    return [*outputs, *(x for x in given if x is not None)]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        size = e.abs().max().item() if e.is_floating_point() and e.numel() else 0.0
        torch.testing.assert_close(a.detach().cpu(), e.detach().cpu(), rtol=1e-4, atol=2e-5 * max(size, 1.0))


@every_problem
def test_as_on_the_cpu(name: str) -> None:
    assert_close(results(name, "cuda"), results(name, "cpu"))


@every_problem
def test_runs_agree_bitwise(name: str) -> None:
    first, *others = (results(name, "cuda") for _ in range(4))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@every_problem
def test_autocast_is_for_what_surrounds_an_op(name: str) -> None:
    call, inputs = PROBLEMS[name]
    placed = [x.cuda() for x in inputs]
    plain = outputs_and_gradients(name, call, placed)
    with torch.autocast("cuda", torch.bfloat16):
        surrounded = outputs_and_gradients(name, call, placed)
    assert all(torch.equal(a, b) for a, b in zip(plain, surrounded, strict=True))


@every_problem
def test_nothing_waits(name: str, waiting_is_an_error: Callable[[], None]) -> None:
    call, inputs = PROBLEMS[name]
    placed = [x.cuda() for x in inputs]
    outputs_and_gradients(name, call, placed)  # compiles kernels, makes transposes
    waiting_is_an_error()
    outputs_and_gradients(name, call, placed)


@every_problem
def test_capture(name: str) -> None:
    """A captured call, replayed over other numbers, gives what an eager call gives for these."""
    call, inputs = PROBLEMS[name]
    placed = [x.cuda() for x in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        outputs_and_gradients(name, call, placed)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        outputs = outputs_and_gradients(name, call, placed)
    for x in placed:
        if x.is_floating_point() and x.dim() > 1:
            x.copy_(x.flip(0))
    captured.replay()
    for a, e in zip(outputs, outputs_and_gradients(name, call, placed), strict=True):
        assert torch.equal(a, e)


@every_problem
def test_compiles_whole(name: str) -> None:
    call, inputs = PROBLEMS[name]
    placed = [x.cuda() for x in inputs]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_close(outputs_and_gradients(name, compiled, placed), outputs_and_gradients(name, call, placed))


@every_problem
def test_opcheck_of_what_is_called(name: str) -> None:
    """Schema, fake tensors and autograd of the ops under the public function, on CUDA tensors."""
    call, inputs = PROBLEMS[name]
    placed = [x.cuda().requires_grad_(x.is_floating_point() and name in DIFFERENTIABLE) for x in inputs]
    seen: list[tuple[object, tuple[object, ...]]] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.namespace == "chronorec":
                seen.append((func, args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        call(*placed)
    assert seen
    for op, arguments in seen:
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))  # type: ignore[arg-type]


def test_large_catalogue() -> None:
    """More logits than 32 bits count, which nobody stores."""
    hidden = torch.randn(70_000, 64, device="cuda", requires_grad=True)
    table = (torch.randn(100_000, 64, device="cuda") / 8).requires_grad_()
    targets = torch.randint(100_000, (70_000,), device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    value = ops.item_cross_entropy(hidden, table, targets)
    value.backward()
    assert torch.cuda.max_memory_allocated() - before < 1e9  # the logits alone would be 28 GB
    some = slice(0, 70_000, 1_000)
    logits = hidden.detach()[some].double() @ table.detach().double().T
    expected = torch.softmax(logits, 1)
    expected[torch.arange(70), targets[some]] -= 1
    gradient = expected @ table.detach().double() / 70_000
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[some].double(), gradient, rtol=1e-3, atol=1e-9)
