"""Item vectors from neighbours in histories, to start an item table from (item2vec)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chronorec.progress import Progress

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.jagged import Int32s, Int64s
    from chronorec.engine.program import Floats
    from chronorec.models import SequenceModel

#: Passes over the events and negatives of a pair, as in the paper; neighbours on either side, as in Word2Vec.
EPOCHS, NEGATIVES, WINDOW = 20, 15, 5
#: gensim drops what a sentence has beyond that, and says nothing.
_LONGEST_SENTENCE = 10_000
_SEEDS = 1 << 32  # gensim draws from numpy's RandomState, which takes no larger seed


def item2vec(
    histories: Histories, begin: Int64s, end: Int64s, *, width: int, seed: int = 0, quiet: bool = True
) -> tuple[Int32s, Floats]:
    """Skip-gram with negative sampling, by gensim, over the events ``begin[b]:end[b]`` of every user b.

    A history is a sentence; an event's neighbours are the five before and the five after it in its training
    range, whatever their baskets. On one worker, so that it is a function of events and seed. Source: Barkan
    and Koenigstein, "Item2Vec" (MLSP 2016).

    Args:
        histories: the events.
        begin, end: int64 [B], the training range of every user.
        width: size D of a vector.
        seed: of gensim's draws.
        quiet: print no progress.

    Returns:
        codes int32 [U] of the items that have events there, and their vectors float32 [U, D].

    Raises:
        ImportError: gensim is not installed.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise ImportError("training.item2vec needs gensim: pip install 'chronorec[item2vec]'") from error
    sentences = _Sentences(histories.item, begin, end, "item2vec", quiet)
    vectors: Any = Word2Vec(
        sentences,
        vector_size=width,
        sg=1,
        window=WINDOW,
        negative=NEGATIVES,
        epochs=EPOCHS,
        min_count=1,
        workers=1,
        seed=seed % _SEEDS,
    ).wv
    sentences.progress.close()
    return np.array(vectors.index_to_key, np.int32), vectors.vectors


@torch.no_grad()
def start_from_item2vec(
    model: SequenceModel, histories: Histories, begin: Int64s, end: Int64s, *, seed: int, quiet: bool
) -> None:
    """Puts the vectors into the model's input table, scaled to the spread that the table has.

    Items without an event in the training range keep their random vectors; so does a separate output table.
    """
    table = model.item_embedding
    codes, vectors = item2vec(histories, begin, end, width=table.shape[1], seed=seed, quiet=quiet)
    spread = table.std().item() / max(float(vectors.std()), 1e-30)
    table[torch.from_numpy(codes).long()] = torch.from_numpy(vectors * np.float32(spread))


class _Sentences:
    """The training ranges as lists of words, which gensim goes through once more than it has epochs."""

    def __init__(self, item: Int32s, begin: Int64s, end: Int64s, label: str, quiet: bool) -> None:
        self.item, self.bounds = item, list(zip(begin.tolist(), end.tolist(), strict=True))
        total = (1 + EPOCHS) * int((end - begin).sum())
        self.progress = Progress(label, total, "events", shown=not quiet)

    def __iter__(self) -> Iterator[list[str]]:
        for first, last in self.bounds:
            for start in range(first, last, _LONGEST_SENTENCE):
                codes = self.item[start : min(start + _LONGEST_SENTENCE, last)].tolist()
                self.progress.advance(len(codes))
                yield list(map(str, codes))
