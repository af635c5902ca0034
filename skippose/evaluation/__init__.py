"""Metrics of clips, the evaluator that counts their frames, and comparisons of networks."""

from skippose.evaluation.clip_evaluator import ClipEvaluator, ClipTestLoop
from skippose.evaluation.head_pck import HeadPCKAccuracy
from skippose.evaluation.perturbations import PerturbedClipDataset
from skippose.evaluation.sparsity_metric import SparsityMetric

__all__ = [
    "ClipEvaluator",
    "ClipTestLoop",
    "HeadPCKAccuracy",
    "PerturbedClipDataset",
    "SparsityMetric",
]
