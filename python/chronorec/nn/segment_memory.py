"""Long histories in segments: what attention layers remember of the tokens before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from chronorec.data.jagged import Int64s, offsets_of, ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING_BEFORE = np.iinfo(np.int64).max


class SegmentMemory:
    """The inputs of every attention layer at the last tokens before a segment, without their gradient.

    A long history is trained on in consecutive segments. A layer attends to the tokens of its segment and,
    by keys and values made anew from what it remembers, to those before it, so that with the same weights
    segments have the states of the whole history. Gradients stop at the first token of a segment: training
    needs the memory of a segment, however long the history is. Source: Dai et al., "Transformer-XL" (ACL
    2019).

    For every batch :meth:`begin`, then for every layer, in order, :meth:`join`.

    Args:
        window: how many tokens a token sees in a layer, itself included. As many are kept: the one that is
            out of sight still tells how long the first token of a segment came after it.
        layers: number of layers.

    Attributes:
        offsets: int64 [S + 1], of the joined sequences: the R tokens remembered and the N of the segments.
        times: int64 [R + N], when they happened, or None.
        own: int64 [N], where in them the tokens of the segments are.
        gaps: int64 [S], from the last token remembered to the first of the segment in microseconds, and the
            largest number where there is none; None without times.
    """

    offsets: Tensor
    times: Tensor | None
    own: Tensor
    gaps: Tensor | None

    def __init__(self, window: int, layers: int) -> None:
        self.window = window
        self._layers: list[Tensor | None] = [None] * layers
        self._kept_offsets = np.zeros(1, np.int64)
        self._kept_times = np.zeros(0, np.int64)
        self._order = self._taken = self._keep = torch.zeros(0, dtype=torch.int64)

    def begin(
        self, previous: Int64s, offsets: Int64s, times: Int64s | None, device: torch.device | str = "cpu"
    ) -> None:
        """Turns to the next S segments.

        Args:
            previous: int64 [S], the row of the batch before that each segment goes on; -1: a history begins.
            offsets: int64 [S + 1], the tokens of each segment; none is empty.
            times: int64 [N] when they happened, microseconds, or None.
            device: where the tokens are.
        """
        before = np.append(np.diff(self._kept_offsets), 0)[previous]
        sizes = np.diff(offsets)
        joined = offsets_of(before + sizes)
        taken = ranges(self._kept_offsets[previous], before)
        own = ranges(joined[:-1] + before, sizes)
        order = np.empty(joined[-1], np.int64)
        order[ranges(joined[:-1], before)] = np.arange(len(taken))
        order[own] = len(taken) + np.arange(len(own))
        lengths = np.minimum(before + sizes, self.window)
        keep = ranges(joined[1:] - lengths, lengths)

        self.times = self.gaps = None
        if times is not None:
            joined_times = np.concatenate([self._kept_times[taken], times])[order]
            last = np.maximum(own[offsets[:-1]] - 1, 0)
            gaps = np.where(before > 0, times[offsets[:-1]] - joined_times[last], _NOTHING_BEFORE)
            self.times, self.gaps = (torch.from_numpy(x).to(device) for x in (joined_times, gaps))
            self._kept_times = joined_times[keep]
        self._kept_offsets = offsets_of(lengths)
        self.offsets, self.own, self._order, self._taken, self._keep = (
            torch.from_numpy(x).to(device) for x in (joined, own, order, taken, keep)
        )

    def join(self, layer: int, tokens: Tensor) -> Tensor:
        """The layer's inputs [N, D] with those remembered, [R + N, D], the last of which it remembers."""
        kept = self._layers[layer]
        past = tokens.new_empty(0, tokens.shape[1]) if kept is None else kept[self._taken]
        joined = torch.cat([past, tokens]).index_select(0, self._order)
        self._layers[layer] = joined.detach()[self._keep]
        return joined

    def state_dict(self) -> dict[str, Tensor]:
        """What :meth:`begin` and :meth:`join` go on from, as tensors."""
        state = {str(layer): kept for layer, kept in enumerate(self._layers) if kept is not None}
        state["offsets"], state["times"] = map(torch.from_numpy, (self._kept_offsets, self._kept_times))
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Goes on from what :meth:`state_dict` gave."""
        self._layers = [state[str(layer)].to(device) for layer in range(len(self._layers))]
        self._kept_offsets, self._kept_times = state["offsets"].numpy(), state["times"].numpy()
