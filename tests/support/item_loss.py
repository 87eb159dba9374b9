"""Problems for item_cross_entropy, and the comparison with its reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chronorec.ops import item_cross_entropy, reference
from tests.support.budget import assert_within_budget
from tests.support.jagged import offsets_of

DTYPES = [torch.float32, torch.bfloat16]
KINDS = ["full", "shared", "rows", "gbce", "gbce shared", "bpr", "bpr shared"]
RESULTS = ["loss", "hidden_grad", "table_grad", "bias_grad"]


@dataclass(frozen=True)
class Problem:
    hidden: Tensor
    table: Tensor
    targets: Tensor
    target_offsets: Tensor | None = None
    bias: Tensor | None = None
    negatives: Tensor | None = None
    negative_log_q: Tensor | None = None
    target_log_q: Tensor | None = None
    weights: Tensor | None = None
    temperature: float = 1.0
    label_smoothing: float = 0.0
    ignore_index: int = -100
    loss: str = "softmax"
    calibration: float = 0.75

    def of_rows(self, kept: Tensor) -> Problem:
        """The rows ``kept`` (a mask or indices) alone; each has one target, or no row loses any."""
        by_row: dict[str, Any] = {"hidden": self.hidden[kept]}
        if self.target_offsets is None:
            by_row["targets"] = self.targets[kept]
            by_row["target_log_q"] = None if self.target_log_q is None else self.target_log_q[kept]
        else:
            by_row["target_offsets"] = offsets_of(self.target_offsets.diff()[kept].tolist())
        for name in ("negatives", "negative_log_q"):
            value = getattr(self, name)
            if value is not None and value.dim() == 2:
                by_row[name] = value[kept]
        return replace(self, **by_row)

    def to(self, dtype: torch.dtype) -> Problem:
        """The floating inputs that share one dtype, in this one; in float64 also the corrections."""
        bias = None if self.bias is None else self.bias.to(dtype)
        cast = replace(self, hidden=self.hidden.to(dtype), table=self.table.to(dtype), bias=bias)
        if dtype != torch.float64 or self.negatives is None:
            return cast
        log_q = [None if x is None else x.double() for x in (self.negative_log_q, self.target_log_q)]
        return replace(cast, negative_log_q=log_q[0], target_log_q=log_q[1])


def options_of(kind: str, negatives: int = 40) -> dict[str, Any]:
    """What :func:`draw` needs for one of KINDS."""
    if kind == "full":
        return {}
    loss = kind.split()[0] if kind.startswith(("gbce", "bpr")) else "softmax"
    return {"negatives": negatives, "loss": loss, "own": "shared" not in kind}


def draw(
    lengths: list[int] | int,
    items: int,
    depth: int,
    *,
    negatives: int | None = None,
    loss: str = "softmax",
    own: bool = False,
    bias: bool = True,
    log_q: bool = True,
    seed: int = 0,
) -> Problem:
    """A random problem: rows with so many distinct targets each, or (an int) so many rows with one each.

    Args:
        negatives: how many; for every row of its ``own``, or shared.
        log_q: with corrections, where the loss takes them.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(lengths, int):
        rows = count = lengths
        offsets = None
        targets = torch.randint(0, items, (count,), generator=generator)
        targets[:1], targets[1:2] = items - 1, 0
    else:
        lengths = [min(length, items) for length in lengths]
        rows, count, offsets = len(lengths), sum(lengths), offsets_of(lengths)
        sets = [torch.randperm(items, generator=generator)[:length] for length in lengths]
        targets = torch.cat([torch.zeros(0, dtype=torch.int64), *sets])
    shape = (rows, negatives or 0) if own else (negatives or 0,)
    corrected = negatives is not None and log_q and loss == "softmax"
    return Problem(
        hidden=torch.randn(rows, depth, generator=generator),
        table=torch.randn(items, depth, generator=generator) / depth**0.5,
        targets=targets,
        target_offsets=offsets,
        bias=torch.randn(items, generator=generator) if bias else None,
        negatives=None if negatives is None else torch.randint(0, items, shape, generator=generator),
        negative_log_q=torch.randn(shape, generator=generator) if corrected else None,
        target_log_q=torch.randn(count, generator=generator) if corrected else None,
        loss=loss,
    )


def call(function: Any, problem: Problem) -> Tensor:
    options = {k: v for k, v in vars(problem).items() if k not in ("hidden", "table", "targets")}
    return function(problem.hidden, problem.table, problem.targets, **options)


def loss_and_gradients(function: Any, problem: Problem, wanted: str = "hidden table bias") -> list[Tensor]:
    names = [n for n in wanted.split() if getattr(problem, n) is not None]
    leaves = {n: getattr(problem, n).detach().requires_grad_() for n in names}
    loss = call(function, replace(problem, **leaves))
    return [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


def sizes_of_terms(problem: Problem, bias_grad: Tensor) -> list[float]:
    """How large, in sum, the terms of the loss and of each gradient are before they cancel.

    The loss is a logit less a logit; a gradient is a mean over rows of (probability - share of the targets)
    times an item or a row, and both weights come to 1 in a row; in an item they come to its bias's gradient
    and twice what its targets weigh. What is left of the two cannot be more accurate than one rounding of
    what went in.
    """

    def largest(x: Tensor | None) -> float:
        return 0.0 if x is None or x.numel() == 0 else x.abs().max().item()

    rows = len(problem.hidden)
    if problem.target_offsets is not None:
        rows = int((problem.target_offsets.diff() > 0).sum())
    logit = (largest(problem.hidden @ problem.table.T) + largest(problem.bias)) / problem.temperature
    logit += max(largest(problem.negative_log_q), largest(problem.target_log_q))
    in_row = 2 / max(rows, 1) / problem.temperature
    targets = problem.targets[problem.targets >= 0]
    often = torch.bincount(targets).max().item() if len(targets) else 0
    in_item = max(in_row, largest(bias_grad) + in_row * often)
    return [2 * logit, in_row * largest(problem.table), in_item * largest(problem.hidden), in_item]


def assert_matches_reference(problem: Problem, dtype: torch.dtype = torch.float32) -> None:
    """Within budget of float64 on the same (rounded) inputs.

    The loss always has the budget of float32. A gradient in bfloat16 has that of the reference computed in
    bfloat16, where the probabilities are rounded too.
    """
    problem = problem.to(dtype)
    exact_problem = problem.to(torch.float64)
    actual = loss_and_gradients(item_cross_entropy, problem)
    with_bias = exact_problem
    if problem.bias is None:
        with_bias = replace(with_bias, bias=exact_problem.table.new_zeros(len(problem.table)))
    exact = loss_and_gradients(reference.item_cross_entropy, with_bias)
    single = loss_and_gradients(reference.item_cross_entropy, problem.to(torch.float32))
    own = loss_and_gradients(reference.item_cross_entropy, problem)
    assert actual[0].dtype == torch.float32
    sizes = sizes_of_terms(exact_problem, exact[-1])
    for name, a, e, s, o, size in zip(RESULTS, actual, exact, single, own, sizes, strict=False):
        assert a.dtype == (torch.float32 if name == "loss" else dtype), name
        if a.dtype == torch.float32:
            assert_within_budget(a, s, e, name, terms=e.abs().clamp(min=size))
        else:  # half a rounding of what cancels: eps is a whole one
            assert_within_budget(a, o, e, name, terms=e.abs().clamp(min=size) / 2)
