"""Evaluation: metrics from ranks, protocols that produce ranks, reports that people read."""

from chronorec.evaluation.ledger import AlreadyTested, read_ledger
from chronorec.evaluation.protocols import EvaluationResult, Scorer, evaluate, evaluate_split
from chronorec.evaluation.report import Report
from chronorec.evaluation.significance import PairedDifference, paired_bootstrap
from chronorec.evaluation.slices import Slicing, slice_queries

__all__ = [
    "AlreadyTested",
    "EvaluationResult",
    "PairedDifference",
    "Report",
    "Scorer",
    "Slicing",
    "evaluate",
    "evaluate_split",
    "paired_bootstrap",
    "read_ledger",
    "slice_queries",
]
