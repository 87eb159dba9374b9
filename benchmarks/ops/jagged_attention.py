"""jagged_attention against torch's scaled_dot_product_attention on the same batch, padded if jagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, generator, on_gpu
from benchmarks.lengths import movielens_lengths
from chronorec.ops import AttentionBias, jagged_attention, jagged_attention_step

Providers = dict[str, Callable[[], object]]
POSITIONS = 200
TIME_BOUNDARIES = 31  # at 1, 2, 4, ... seconds


def pad(rows: Tensor, lengths: list[int]) -> Tensor:
    """[N, A, D] -> [B, A, T, D], contiguous."""
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = rows.new_zeros(len(lengths), max(lengths), *rows.shape[1:]).index_put((real,), rows)
    return padded.transpose(1, 2).contiguous()


def run(attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor | None) -> Callable[[], object]:
    if grad is None:
        return lambda: attention(*inputs)
    leaves = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(attention(*leaves), leaves, grad)


def event_times(events: int) -> Tensor:
    """Seconds: bursts minutes apart, and days between them."""
    draws = generator(1)
    return torch.exp(14 * torch.rand(events, generator=draws) ** 2).long().cumsum(0)


@dataclass(frozen=True)
class Batch:
    """Sequences of these lengths, and what stands behind the padding of a rival."""

    lengths: list[int]
    times: Tensor

    def sdpa(self, biased: bool) -> Callable[..., Tensor]:
        """torch's attention on padded inputs; biased, with the bias of all pairs made from the tables."""
        if not biased:
            return partial(F.scaled_dot_product_attention, is_causal=True)
        padded = pad(self.times[:, None, None], self.lengths)[:, 0, :, 0]
        places, boundaries = torch.arange(padded.shape[1]), 2.0 ** torch.arange(TIME_BOUNDARIES)
        gap = places[:, None] - places
        future = torch.where(gap < 0, -torch.inf, 0.0)

        def attend(query: Tensor, key: Tensor, value: Tensor, position: Tensor, time_table: Tensor) -> Tensor:
            by_gap = F.embedding(gap.clamp(0, POSITIONS - 1), position.t())
            waited = (padded[:, :, None] - padded[:, None]).float().abs()
            by_time = F.embedding(torch.bucketize(waited, boundaries, right=True), time_table.t())
            bias = ((by_gap + by_time).permute(0, 3, 1, 2) + future).to(query.dtype)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

        return attend

    def flex(self, biased: bool) -> Callable[..., Tensor]:
        """FlexAttention over all events at once, compiled; its mask of blocks is made before."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch._dynamo.reset()
        owner = torch.repeat_interleave(torch.tensor(self.lengths))
        times, events = self.times.float(), sum(self.lengths)

        def visible(b: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return (owner[row] == owner[column]) & (row >= column)

        blocks = create_block_mask(visible, None, None, events, events, device=owner.device)
        compiled = torch.compile(flex_attention, dynamic=False)

        def attend(query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
            def bias(score: Tensor, b: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
                by_gap = tables[0][head, (row - column).clamp(0, POSITIONS - 1)]
                waited = (times[row] - times[column]).abs()
                bucket = (torch.log2(waited.clamp(min=0.5)).floor() + 1).clamp(0, TIME_BOUNDARIES)
                return score + by_gap + tables[1][head, bucket.int()]

            heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
            output = compiled(*heads_first, score_mod=bias if biased else None, block_mask=blocks)
            return output[0].transpose(0, 1)  # type: ignore[no-any-return]

        return attend

    def nested(self) -> Callable[..., Tensor]:
        """torch's attention over jagged nested tensors, by kernels for sequences of any length."""
        offsets = torch.tensor([0, *self.lengths]).cumsum(0)

        def attend(*rows: Tensor) -> Tensor:
            parts = (torch.nested.nested_tensor_from_jagged(x, offsets).transpose(1, 2) for x in rows)
            return F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).values()

        return attend

    def select(self, rows: list[int]) -> tuple[Batch, Tensor]:
        """The batch of these sequences, and the rows of their events."""
        offsets = [0, *torch.tensor(self.lengths).cumsum(0).tolist()]
        events = torch.cat([torch.arange(offsets[b], offsets[b + 1]) for b in rows])
        return Batch([self.lengths[b] for b in rows], self.times[events]), events

    def by_length(self, parts: int) -> list[tuple[Batch, Tensor]]:
        """Sequences of like length together: what padding costs a user who sorts."""
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        size = len(order) // parts
        return [self.select(order[first : first + size]) for first in range(0, len(order), size)]


def setup(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, backward: bool, biased: bool
) -> Providers:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    projection = torch.randn(sum(lengths), 3, heads, width).to(dtype)
    grad = torch.randn(sum(lengths), heads, width).to(dtype)
    rows, batch = list(projection.unbind(1)), Batch(lengths, event_times(sum(lengths)))
    tables = [torch.randn(heads, n) for n in (POSITIONS, TIME_BOUNDARIES + 1)] if biased else []

    boundaries = 2.0 ** torch.arange(TIME_BOUNDARIES)

    def ours(query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
        bias = AttentionBias(tables[0], batch.times, boundaries, tables[1]) if tables else None
        return jagged_attention(query, key, value, offsets, bias=bias)

    def sdpa(batch: Batch, events: Tensor, kind: torch.dtype) -> Callable[[], object]:
        dense = [pad(x[events].to(kind), batch.lengths) for x in (*rows, grad)]
        return run(batch.sdpa(biased), [*dense[:3], *tables], dense[3] if backward else None)

    whole = torch.arange(sum(lengths))
    providers = {"chronorec": run(ours, [*rows, *tables], grad if backward else None)}
    providers["torch sdpa"] = sdpa(batch, whole, dtype)
    if dtype != torch.float32:
        providers["torch sdpa float32"] = sdpa(batch, whole, torch.float32)
    if on_gpu():
        providers["torch flex compiled"] = run(
            batch.flex(biased), [*rows, *tables], grad if backward else None
        )
        if not biased:
            providers["torch sdpa nested"] = run(batch.nested(), rows, grad if backward else None)
    if len(set(lengths)) > 1:
        bucketed = [sdpa(part, events, dtype) for part, events in batch.by_length(8)]
        providers["torch sdpa by length"] = lambda: [call() for call in bucketed]
    return providers


def setup_step(batch: int, length: int, heads: int, width: int) -> Providers:
    query, (key, value) = torch.randn(batch, heads, width), torch.randn(2, batch * length, heads, width)
    offsets = torch.arange(0, batch * length + 1, length)
    dense_key, dense_value = (pad(x, [length] * batch) for x in (key, value))
    return {
        "chronorec": lambda: jagged_attention_step(query, key, value, offsets),
        "torch sdpa": lambda: F.scaled_dot_product_attention(query[:, :, None], dense_key, dense_value),
    }


def sequence_cases(
    name: str,
    lengths: list[int],
    heads: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    biased: bool = False,
) -> list[Case]:
    # two products over the causal half forward, five more backward
    forward = 2.0 * sum(n * (n + 1) for n in lengths) * heads * width
    return [
        Case(
            op="jagged_attention",
            name=f"{name} bias" if biased else name,
            mode="forward+backward" if backward else "forward",
            dtype=str(dtype).removeprefix("torch."),
            work=forward * (3.5 if backward else 1),
            unit="GF/s",
            setup=partial(setup, lengths, heads, width, dtype, backward, biased),
        )
        for backward in (False, True)
    ]


def step_case(batch: int, length: int, heads: int, width: int) -> Case:
    return Case(
        op="jagged_attention",
        name=f"step B{batch} T{length} A{heads} D{width}",
        mode="step",
        dtype="float32",
        work=8.0 * batch * length * heads * width,
        unit="GB/s",
        setup=partial(setup_step, batch, length, heads, width),
        cuda=False,
    )


HISTORIES = "B128 MovieLens A2 D32", movielens_lengths(128), 2, 32

CASES: list[Case] = [
    *sequence_cases("B128 T200 A2 D32", [200] * 128, 2, 32),
    *sequence_cases("B32 T256 A2 D64", [256] * 32, 2, 64),
    *sequence_cases("B128 T200 A2 D32", [200] * 128, 2, 32, biased=True),
    *sequence_cases("B32 T256 A2 D64", [256] * 32, 2, 64, biased=True),
    *sequence_cases(*HISTORIES),
    *sequence_cases(*HISTORIES, biased=True),
    *sequence_cases(*HISTORIES, torch.bfloat16),
    *sequence_cases(*HISTORIES, torch.bfloat16, biased=True),
    *sequence_cases("B4 T2000 A2 D64", [2000] * 4, 2, 64),
    step_case(1, 200, 2, 32),
    step_case(128, 200, 2, 32),
]
