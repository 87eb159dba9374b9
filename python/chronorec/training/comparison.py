"""Models and baselines on one set of held-out queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from chronorec.artifact import Artifact, ArtifactError
from chronorec.engine import Engine
from chronorec.evaluation.protocols import EvaluationResult, evaluate_split
from chronorec.evaluation.report import Report
from chronorec.training.baselines import fit_baselines
from chronorec.training.config import SplitConfig, config_from_text
from chronorec.training.run import make_split

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


def compare(
    artifacts: Sequence[Artifact],
    histories: Histories,
    *,
    part: Literal["validation", "test"] = "test",
    ks: Sequence[int] = (10, 20),
) -> Report:
    """Evaluates models on the split they were trained under, with the baselines beside.

    Raises:
        ArtifactError: the models were trained under different splits, or on other data than ``histories``.
    """
    split = make_split(_split_config(artifacts), histories)
    for artifact in artifacts:
        if artifact.provenance.get("split") != split.hash:
            own = artifact.provenance.get("split", "unknown")[:12]
            raise ArtifactError(
                f"{artifact.name}: trained on another split ({own}) than these histories give "
                f"({split.short_hash}); evaluate on the data it was trained on"
            )
    baselines = fit_baselines(histories, split, part=part)

    def result(artifact: Artifact) -> EvaluationResult:
        seed = artifact.provenance.get("seed")
        return evaluate_split(
            Engine(artifact), histories, split, name=artifact.name, part=part, ks=ks, seed=seed
        )

    return Report([result(a) for a in [*artifacts, *baselines]], baselines=[b.name for b in baselines])


def _split_config(artifacts: Sequence[Artifact]) -> SplitConfig:
    configs = {config_from_text(artifact.config, artifact.name).split for artifact in artifacts}
    if len(configs) != 1:
        raise ArtifactError(f"models: wanted models of one split, got {len(configs)} different splits")
    return configs.pop()
