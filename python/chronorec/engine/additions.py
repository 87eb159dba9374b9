"""What a model adds to the scores beside state . table + bias: all its adjustments, in their order."""

from __future__ import annotations

import functools

from chronorec.artifact import Artifact
from chronorec.engine import adjust
from chronorec.engine.copy import CopyHead
from chronorec.engine.history import HistoryBatch, Tokens
from chronorec.engine.item_table import ItemTable, score_lists, topk
from chronorec.engine.program import Floats
from chronorec.engine.rescore import rescores


class ModelAdditions:
    """The adjustments of an artifact with their weights checked once.

    Args:
        artifact: the model.
        width: of its states.

    Raises:
        ArtifactError: the adjustments do not fit each other or the weights.
    """

    def __init__(self, artifact: Artifact, width: int) -> None:
        adjust.check_specs(artifact)
        self._artifact = artifact
        self._copy_heads = [
            CopyHead(artifact, spec, width) for spec in artifact.adjustments if spec["kind"] == "copy"
        ]
        self._rescores = rescores(artifact, width)

    def of(
        self, batch: HistoryBatch, tokens: Tokens, states: Floats, table: ItemTable, bias: Floats | None
    ) -> list[tuple[str, adjust.Additions]]:
        """What is added for each request, by kind; ``tokens`` and ``states`` [B, D] are the batch's."""
        model = self._artifact
        additions = [
            (str(spec["kind"]), adjust.from_model(spec, model.weights, batch, tokens))
            for spec in model.adjustments
            if spec["kind"] not in ("copy", "rescore")
        ]
        for head in self._copy_heads:
            score = functools.partial(score_lists, states, table, bias, None)
            added = adjust.Additions(*head.adjust(tokens, model.num_items, states, score))
            additions.append(("copy", added))
        for stage in self._rescores:
            best = topk(states, table, bias, None, stage.count)
            additions.append(("rescore", stage.adjust(tokens, *best)))
        return additions
