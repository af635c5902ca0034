"""Metrics of clips, and the evaluator that counts their frames."""

from skippose.evaluation.clip_evaluator import ClipEvaluator, ClipTestLoop
from skippose.evaluation.sparsity_metric import SparsityMetric

__all__ = ["ClipEvaluator", "ClipTestLoop", "SparsityMetric"]
