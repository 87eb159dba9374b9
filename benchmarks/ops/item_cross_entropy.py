"""Losses over the item table against the same losses in torch, which store the logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, generator
from chronorec.ops import item_cross_entropy
from chronorec.ops.reference.item_cross_entropy import gbce_exponent

ROWS, DEPTH = 4096, 64
Providers = dict[str, Callable[[], object]]
Loss = Literal["softmax", "gbce", "bpr"]


def _learning(loss: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    """Forward and backward; gradients are made anew each time, as after ``zero_grad(set_to_none=True)``."""
    leaves = tuple(x.detach().requires_grad_() for x in leaves)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss(*leaves).backward()

    return step


def _draw(items: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = generator(0)
    hidden = torch.randn(ROWS, DEPTH, generator=draws).to(dtype)
    table = (torch.randn(items, DEPTH, generator=draws) / 8).to(dtype)
    targets = torch.randint(0, items, (ROWS,), generator=draws)
    return hidden, table, torch.zeros(items, dtype=dtype), targets


def _providers(
    mode: str, dtype: torch.dtype, ours: Callable[..., Tensor], rival: Callable[..., Tensor], *leaves: Tensor
) -> Providers:
    """Ours and torch in the case's dtype; torch in float32 as well, since that is what bfloat16 replaces."""

    def work(loss: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], object]:
        return partial(loss, *leaves) if mode == "forward" else _learning(loss, *leaves)

    providers = {"chronorec": work(ours, leaves), "torch": work(rival, leaves)}
    if dtype != torch.float32:
        providers["torch float32"] = work(rival, tuple(x.float() for x in leaves))
    return providers


def full(items: int, dtype: torch.dtype, mode: str) -> Providers:
    hidden, table, bias, targets = _draw(items, dtype)

    def ours(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return item_cross_entropy(hidden, table, targets, bias=bias)

    def torch_loss(hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, table, bias), targets)

    return _providers(mode, dtype, ours, torch_loss, hidden, table, bias)


def sampled(items: int, negatives: int, dtype: torch.dtype, loss: Loss, shared: bool) -> Providers:
    """Forward and backward over negatives that are shared, or each row's own."""
    hidden, table, _, targets = _draw(items, dtype)
    draws = generator(1)
    shape = (negatives,) if shared else (ROWS, negatives)
    drawn = torch.randint(0, items, shape, generator=draws)
    negative_log_q = target_log_q = None
    if loss == "softmax":
        negative_log_q = torch.randn(shape, generator=draws)
        target_log_q = torch.randn(ROWS, generator=draws)
    exponent = gbce_exponent(negatives, items, 0.75)

    def ours(hidden: Tensor, table: Tensor) -> Tensor:
        return item_cross_entropy(
            hidden,
            table,
            targets,
            loss=loss,
            negatives=drawn,
            negative_log_q=negative_log_q,
            target_log_q=target_log_q,
        )

    def torch_loss(hidden: Tensor, table: Tensor) -> Tensor:
        rows = F.embedding(drawn, table)
        rivals = (hidden @ rows.T if shared else (rows @ hidden[:, :, None])[:, :, 0]).float()
        right = (hidden * F.embedding(targets, table)).sum(1).float()
        hit = drawn == targets[:, None]
        if loss == "bpr":
            pairs = F.softplus(rivals - right[:, None]).masked_fill(hit, 0).sum(1)
            return (pairs / (~hit).sum(1).clamp(min=1)).mean()
        if loss == "gbce":
            wrong = F.softplus(rivals).masked_fill(hit, 0).sum(1)
            return ((exponent * F.softplus(-right) + wrong) / ((~hit).sum(1) + 1)).mean()
        assert negative_log_q is not None
        assert target_log_q is not None
        rivals = (rivals - negative_log_q).masked_fill(hit, -torch.inf)
        logits = torch.cat([(right - target_log_q)[:, None], rivals], 1)
        return F.cross_entropy(logits, torch.zeros_like(targets))

    return _providers("forward+backward", dtype, ours, torch_loss, hidden, table)


# losses over negatives: loss, negatives per row, shared
SAMPLED: list[tuple[Loss, int, bool]] = [
    ("softmax", 1024, True),
    ("softmax", 256, False),
    ("gbce", 256, False),
    ("bpr", 1, False),
    ("bpr", 64, False),
    ("gbce", 256, True),
]


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
        for loss, negatives, shared in SAMPLED:
            whose = "shared" if shared else "per row"
            cases.append(
                Case(
                    op="item_cross_entropy",
                    name=f"{loss} N{ROWS} V70000 K{negatives} {whose} D{DEPTH}",
                    mode="forward+backward",
                    dtype=name,
                    work=6.0 * ROWS * (negatives + 1) * DEPTH,
                    unit="GF/s",
                    setup=partial(sampled, 70_000, negatives, dtype, loss, shared),
                )
            )
    return cases


CASES: list[Case] = _cases()
