"""Dual encoder: what happened and what it was about, fused by attention; a second stage over candidates."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.artifact import WHOLE_HISTORY, Artifact
from chronorec.data.feature_matrix import Floats
from chronorec.models._steps import Step, attention_step, dense_step, norm_step
from chronorec.models.base import SequenceModel, Sequences
from chronorec.nn import GRU, FusedAttention, Rescore
from chronorec.ops.item_topk import item_topk
from chronorec.ops.reference.item_score import ItemAdjustment

#: Pairs of a candidate and an event of a history that a batch compares in training; 64 MB a tensor of them.
_MOST_COMPARED = 1 << 24


class DualEncoder(SequenceModel):
    """A GRU over items, one over their features, causal attention over both; candidates are scored again.

    Query, key and value of the attention are linear in the states of both encoders. The first stage scores
    every item by a dot product with its vector: an embedding plus a linear map of its features, so that items
    without events have one that means something. The second lets each of the best ``candidates`` attend to
    the history (:class:`chronorec.nn.Rescore`); it learns to tell the target from the best of the first.

    Args:
        num_items: catalogue size.
        features: float32 [V, F], of every item; see :func:`chronorec.data.feature_matrix.feature_matrix`.
        hidden_size: size of the state of either encoder.
        heads: of the attention.
        max_length: how many tokens a token attends to, and a candidate.
        candidates: how many items go to the second stage.
        common: what every :class:`SequenceModel` takes but ``copy``.
    """

    name = "dual-encoder"

    def __init__(
        self,
        num_items: int,
        *,
        features: Floats,
        hidden_size: int = 64,
        heads: int = 2,
        max_length: int = 200,
        candidates: int = 500,
        **common: Any,
    ) -> None:
        super().__init__(num_items, max_length=max_length, **common)
        if self.copy is not None:
            raise ValueError("copy: wanted False, since candidates are scored again; got True")
        width = self.item_embedding.shape[1]
        self.num_candidates = min(candidates, num_items)
        self.features: Tensor
        self.register_buffer("features", torch.from_numpy(features), persistent=False)
        self.content = nn.Linear(features.shape[1], width)
        nn.init.normal_(self.content.weight, std=0.02 * features.shape[1] ** -0.5)
        nn.init.zeros_(self.content.bias)
        self.event_encoder = GRU(width, hidden_size, 1, 0.0)
        self.feature_encoder = GRU(width, hidden_size, 1, 0.0)
        self.fusion = FusedAttention(hidden_size, width, heads, window=max_length)
        self.projection = nn.Linear(hidden_size, width)
        self.norm = nn.LayerNorm(width)
        self.rescore = Rescore(width, max_length)

    @property
    def history_length(self) -> int:
        """All of it, as recurrent states go on from event to event."""
        return WHOLE_HISTORY

    @property
    def content_table(self) -> Tensor:
        """The features of every item, [V, D]."""
        table: Tensor = self.content(self.features)
        return table

    @property
    def output_table(self) -> Tensor:
        return super().output_table + self.content_table

    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        content = self.dropout(self.embed_items(sequences, self.content_table))
        events, _ = self.event_encoder(tokens, sequences.offsets)
        abouts, _ = self.feature_encoder(content, sequences.offsets)
        mixed = self.fusion(events, abouts, sequences.offsets)
        fused = self.projection(events) + self.dropout(mixed)
        states: Tensor = self.norm(fused)
        return states

    def encoder_steps(self) -> list[Step]:
        fusion, form = self.fusion, {"window": self.fusion.window}
        return [
            _gru_step("event_encoder", "x"),
            {"call": "embed", "table": "content_table", "scale": self.embedding_scale, "out": "about"},
            _gru_step("feature_encoder", "about"),
            dense_step("fusion.second", "about", "about"),
            dense_step("fusion.first", "x", "about", residual="about"),
            attention_step("about", "about", fusion.heads, fusion.bias, "fusion.bias", **form),
            dense_step("fusion.output", "about", "about"),
            dense_step("projection", "x", "x", residual="about"),
            {"call": "last", "in": "x", "out": "x"},
            norm_step("norm", "x", "x"),
        ]

    def scores(self, sequences: Sequences) -> Tensor:
        scores = super().scores(sequences)
        best, candidates = scores.topk(self.num_candidates)
        gains = self.rescore(
            self.output_table, candidates, *self._histories(sequences, sequences.offsets[1:] - 1)
        )
        # where gains are losses all rise alike, so that none falls behind what was no candidate
        gains = gains + (best[:, -1] - (best + gains).min(1).values).clamp(min=0)[:, None]
        return scores.scatter_add(1, candidates, gains)

    def extra_loss(
        self, sequences: Sequences, states: Tensor, targets: Tensor, target_offsets: Tensor | None
    ) -> Tensor:
        """Cross entropy of a target among the first stage's candidates, at tokens drawn from the batch."""
        items_of_token = -(-len(sequences.items) // len(states))  # more than one where tokens are baskets
        pairs = self.num_candidates * self.max_length * items_of_token
        token = torch.randperm(len(states), device=states.device)[: max(_MOST_COMPARED // pairs, 1)]
        if target_offsets is None:
            target, rows = targets[token], torch.arange(len(token) + 1, device=states.device)
            positives = target
        else:
            begin, count = target_offsets[token], target_offsets.diff()[token]
            place = (torch.rand(len(token), device=states.device) * count).long().clamp(max=count - 1)
            target, rows = targets[begin + place], F.pad(count.cumsum(0), (1, 0))
            own_places = torch.arange(int(rows[-1]), device=states.device)
            positives = targets[own_places + torch.repeat_interleave(begin - rows[:-1], count)]
        table = self.output_table
        with torch.no_grad():
            state = states[token].float()
            own = (state * table[target]).sum(1, keepdim=True)
            own = own if self.item_bias is None else own + self.item_bias[target, None]
            out = ItemAdjustment(rows, positives, own.new_full((len(positives),), -torch.inf))
            others = item_topk(state, table, self.num_candidates, bias=self.item_bias, adjust=out)
            scores = torch.cat([own, others.scores], dim=1)
        candidates = torch.cat([target[:, None], others.items.clamp(min=0)], dim=1)
        gains = self.rescore(table, candidates, *self._histories(sequences, token))
        return F.cross_entropy(scores + gains, torch.zeros_like(target))

    def _histories(self, sequences: Sequences, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """items, ago and known [P, L] of the last ``max_length`` tokens up to each ``token`` [P]."""
        row = torch.bucketize(token, sequences.offsets, right=True) - 1
        begin = torch.maximum(sequences.offsets[row], token + 1 - self.max_length)
        bags = sequences.bag_offsets
        if bags is None:
            bags = torch.arange(int(sequences.offsets[-1]) + 1, device=token.device)
        first, last = bags[begin], bags[token + 1]
        place = first[:, None] + torch.arange(int((last - first).max()), device=token.device)
        known = place < last[:, None]
        place = place.clamp(max=len(sequences.items) - 1)
        token_of = torch.repeat_interleave(bags.diff())
        ago = (token[:, None] - token_of[place]).clamp(0, self.max_length - 1)
        return sequences.items[place], ago, known

    def export(self, items: Any, *, name: str | None = None, **fields: Any) -> Artifact:
        artifact = super().export(items, name=name, **fields)
        with torch.no_grad():
            tables = {"content_table": self.content_table, "item_table": self.output_table}
        more = {key: table.float().cpu().numpy().copy() for key, table in tables.items()}
        rescore = {"kind": "rescore", "weights": "rescore", "count": self.num_candidates}
        return dataclasses.replace(
            artifact,
            weights=artifact.weights | more,
            table="item_table",
            adjustments=[*artifact.adjustments, rescore],
        )


def _gru_step(weights: str, register: str) -> Step:
    names = {key: f"{weights}.{key}_l0" for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return {"call": "gru", "in": register, "out": register, **names}
