"""From a scorer and a split to numbers: full ranking over the whole catalogue, always."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from chronorec.data.counts import event_counts
from chronorec.data.jagged import Int32s
from chronorec.evaluation.metrics import Floats, Ranks, averages, coverage, novelty, per_query

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Queries, Split


class Scorer(Protocol):
    """What can be evaluated: it ranks targets and names its best items, both from the same scores.

    The history of query q is events[begin[q]:end[q]] of ``histories`` and nothing else; the request's time is
    ``queries.at[q]``. A scorer must not look at ``queries.targets`` except to rank them. Candidates are all
    items of the log, without the items of the history where ``exclude_seen`` is set.

    A scorer with a method ``rank_and_topk(histories, queries, k, exclude_seen)``, which gives the answers of
    both, (greater, equal, items), is asked through that where both are wanted.
    """

    def rank(
        self, histories: Histories, queries: Queries, exclude_seen: bool
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
        """For each target [M] how many candidates score above it, and how many others score the same.

        A target that is no candidate, because it was seen, is a miss: greater = num_items, equal = 0.
        """
        ...

    def topk(self, histories: Histories, queries: Queries, k: int, exclude_seen: bool) -> Int32s:
        """The k best candidates of each query: int32 [Q, k], best first, -1 where there are fewer."""
        ...


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What one scorer reached on one set of queries.

    Attributes:
        name: of the scorer.
        protocol, part, split_hash: which queries: the split's protocol, "validation" or "test", its hash.
        metrics: name such as "ndcg@10" to the mean over queries; also "coverage@k" and "novelty@k".
        num_queries, num_targets: how many there were.
        seconds: wall-clock time spent in the scorer.
        seed: of the training run, if there was one.
        user: int32 [Q], the user of each query.
        per_query: float64 [Q] for each metric that is a mean over queries, for slices and intervals.
    """

    name: str
    protocol: str
    part: str
    split_hash: str
    metrics: dict[str, float]
    num_queries: int
    num_targets: int
    seconds: float
    seed: int | None = None
    user: npt.NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)
    per_query: dict[str, Floats] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, for JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("user", "per_query")}


def evaluate(
    scorer: Scorer,
    histories: Histories,
    queries: Queries,
    *,
    exclude_seen: bool,
    popularity: npt.NDArray[np.integer],
    ks: Sequence[int] = (10, 20),
    lists: bool = True,
    name: str = "",
    protocol: str = "",
    part: str = "",
    split_hash: str = "",
    seed: int | None = None,
    chunk: int = 2048,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Ranks every target of ``queries`` against the whole catalogue and averages the metrics.

    Args:
        popularity: training events of each item [V], for novelty.
        ks: the cut-offs of the metrics.
        lists: ask for the best items too; without them there is no novelty and no coverage.
        name, protocol, part, split_hash, seed: carried into the result.
        chunk: queries handed to the scorer at a time.
        progress: called after each chunk with (queries done, queries in all).

    Raises:
        ValueError: there are no queries, or an argument or an answer of the scorer has the wrong shape.
    """
    if len(queries) == 0:
        raise ValueError(
            "queries: wanted at least one query, got none; no user has both a past and a target here"
        )
    if len(ks) == 0 or min(ks) < 1:
        raise ValueError(f"ks: wanted cut-offs of at least 1, got {list(ks)}")
    if len(popularity) != histories.num_items:
        raise ValueError(f"popularity: wanted counts of {histories.num_items} items, got {len(popularity)}")
    greater, equal, best, seconds = [], [], [], 0.0
    for first in range(0, len(queries), chunk):
        part_queries = queries.select(slice(first, first + chunk))
        started = time.perf_counter()
        above, same, items = _ask(scorer, histories, part_queries, max(ks) if lists else 0, exclude_seen)
        seconds += time.perf_counter() - started
        _check_answer(part_queries, above, same, items, max(ks) if lists else 0)
        greater.append(above)
        equal.append(same)
        best.append(items)
        if progress is not None:
            progress(min(first + chunk, len(queries)), len(queries))
    ranks = Ranks(np.concatenate(greater), np.concatenate(equal), queries.target_offsets)
    values = per_query(ranks, ks)
    topk = np.concatenate(best)
    if lists:
        values.update({f"novelty@{k}": novelty(topk[:, :k], popularity) for k in ks})
    means = averages(values)
    if lists:
        means.update({f"coverage@{k}": coverage(topk[:, :k], histories.num_items) for k in ks})
    return EvaluationResult(
        name=name,
        protocol=protocol,
        part=part,
        split_hash=split_hash,
        metrics=means,
        num_queries=len(queries),
        num_targets=len(queries.targets),
        seconds=seconds,
        seed=seed,
        user=queries.user,
        per_query=values,
    )


def evaluate_split(
    scorer: Scorer,
    histories: Histories,
    split: Split,
    *,
    name: str,
    part: Literal["validation", "test"] = "test",
    ks: Sequence[int] = (10, 20),
    lists: bool = True,
    seed: int | None = None,
    chunk: int = 2048,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """:func:`evaluate` on the validation or test queries of a split, under the split's own rules.

    Popularity, for novelty, counts the events before the targets of that part. Nothing is recorded here:
    :func:`chronorec.training.comparison.compare` does that for models in folders.
    """
    if part not in ("validation", "test"):
        raise ValueError(f"part: wanted 'validation' or 'test', got {part!r}")
    end = split.refit_end if part == "test" else split.train_end
    return evaluate(
        scorer,
        histories,
        split.test if part == "test" else split.validation,
        exclude_seen=split.exclude_seen,
        popularity=event_counts(histories, split.begin, end),
        ks=ks,
        lists=lists,
        name=name,
        protocol=split.protocol,
        part=part,
        split_hash=split.hash,
        seed=seed,
        chunk=chunk,
        progress=progress,
    )


def pool(results: Sequence[EvaluationResult], *, name: str, protocol: str) -> EvaluationResult:
    """The results of one model on several splits as one: each metric is the mean over all their queries.

    Coverage, which is no mean over queries, is the mean over the splits. The hash is that of the splits'
    hashes, in their order.
    """
    values = {key: np.concatenate([r.per_query[key] for r in results]) for key in results[0].per_query}
    lists = [key for key in results[0].metrics if key not in values]
    means = averages(values) | {k: float(np.mean([r.metrics[k] for r in results])) for k in lists}
    return EvaluationResult(
        name=name,
        protocol=protocol,
        part=results[0].part,
        split_hash=hashlib.sha256("".join(r.split_hash for r in results).encode()).hexdigest(),
        metrics=means,
        num_queries=sum(r.num_queries for r in results),
        num_targets=sum(r.num_targets for r in results),
        seconds=sum(r.seconds for r in results),
        seed=results[0].seed,
        user=np.concatenate([r.user for r in results]),
        per_query=values,
    )


def _ask(
    scorer: Scorer, histories: Histories, queries: Queries, k: int, exclude_seen: bool
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], Int32s]:
    """Ranks of the targets, and the k best items of each query (none for k = 0)."""
    together = getattr(scorer, "rank_and_topk", None)
    if k and together is not None:
        greater, equal, items = together(histories, queries, k, exclude_seen)
        return greater, equal, items
    greater, equal = scorer.rank(histories, queries, exclude_seen)
    if k:
        return greater, equal, scorer.topk(histories, queries, k, exclude_seen)
    return greater, equal, np.zeros((len(queries), 0), np.int32)


def _check_answer(
    queries: Queries,
    greater: npt.NDArray[np.integer],
    equal: npt.NDArray[np.integer],
    topk: npt.NDArray[np.integer],
    k: int,
) -> None:
    targets = len(queries.targets)
    if greater.shape != (targets,) or equal.shape != (targets,):
        raise ValueError(
            f"scorer.rank: wanted two arrays [{targets}], got {list(greater.shape)} and {list(equal.shape)}"
        )
    if topk.shape != (len(queries), k):
        raise ValueError(f"scorer.topk: wanted [{len(queries)}, {k}], got {list(topk.shape)}")
