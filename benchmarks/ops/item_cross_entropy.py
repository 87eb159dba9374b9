"""Softmax loss over the item table against the same loss in torch, which stores the logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case
from chronorec.ops import item_cross_entropy

ROWS, DEPTH = 4096, 64
Providers = dict[str, Callable[[], object]]


def _learning(loss: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    """Forward and backward; gradients are made anew each time, as after ``zero_grad(set_to_none=True)``."""
    leaves = tuple(x.detach().requires_grad_() for x in leaves)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss(*leaves).backward()

    return step


def _draw(items: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, DEPTH, generator=generator).to(dtype)
    table = (torch.randn(items, DEPTH, generator=generator) / 8).to(dtype)
    targets = torch.randint(0, items, (ROWS,), generator=generator)
    return hidden, table, torch.zeros(items, dtype=dtype), targets


def full(items: int, dtype: torch.dtype, mode: str) -> Providers:
    hidden, table, bias, targets = _draw(items, dtype)

    def ours(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return item_cross_entropy(hidden, table, targets, bias=bias)

    def torch_loss(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, table, bias), targets)

    losses = {"chronorec": ours, "torch": torch_loss}
    if mode == "forward":
        return {name: partial(loss, hidden, table, bias) for name, loss in losses.items()}
    return {name: _learning(loss, hidden, table, bias) for name, loss in losses.items()}


def sampled(items: int, negatives: int, dtype: torch.dtype) -> Providers:
    hidden, table, _, targets = _draw(items, dtype)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, items, (negatives,), generator=generator)
    negative_log_q = torch.randn(negatives, generator=generator)
    target_log_q = torch.randn(ROWS, generator=generator)

    def ours(hidden: Tensor, table: Tensor) -> Tensor:
        return item_cross_entropy(
            hidden,
            table,
            targets,
            negatives=drawn,
            negative_log_q=negative_log_q,
            target_log_q=target_log_q,
        )

    def torch_loss(hidden: Tensor, table: Tensor) -> Tensor:
        rivals = (hidden @ F.embedding(drawn, table).T).float() - negative_log_q
        rivals = rivals.masked_fill(drawn == targets[:, None], -torch.inf)
        right = (hidden * F.embedding(targets, table)).sum(1).float() - target_log_q
        logits = torch.cat([right[:, None], rivals], 1)
        return F.cross_entropy(logits, torch.zeros_like(targets))

    return {"chronorec": _learning(ours, hidden, table), "torch": _learning(torch_loss, hidden, table)}


def _cases() -> list[Case]:
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for items in (3_400, 50_000, 100_000):
            for mode, products in (("forward", 1), ("forward+backward", 3)):
                cases.append(
                    Case(
                        op="item_cross_entropy",
                        name=f"full N{ROWS} V{items} D{DEPTH}",
                        mode=mode,
                        dtype=name,
                        work=2.0 * products * ROWS * items * DEPTH,
                        unit="GF/s",
                        setup=partial(full, items, dtype, mode),
                    )
                )
        cases.append(
            Case(
                op="item_cross_entropy",
                name=f"sampled N{ROWS} V70000 K1024 D{DEPTH}",
                mode="forward+backward",
                dtype=name,
                work=6.0 * ROWS * 1024 * DEPTH,
                unit="GF/s",
                setup=partial(sampled, 70_000, 1024, dtype),
            )
        )
    return cases


CASES: list[Case] = _cases()
