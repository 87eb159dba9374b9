"""Evaluation: metrics from ranks, protocols that produce ranks, reports that people read."""

from chronorec.evaluation.protocols import EvaluationResult, Scorer, evaluate, evaluate_split
from chronorec.evaluation.report import Report

__all__ = ["EvaluationResult", "Report", "Scorer", "evaluate", "evaluate_split"]
