"""Thresholds for an already trained network: as few MACs as the accuracy allows."""

from skippose.calibration.allocation import allocate, scale_to
from skippose.calibration.probe import Probe, gated_layers, single_layer_sensitivity
from skippose.calibration.sensitivity import Sensitivity, gradient_sensitivity

__all__ = [
    "Probe",
    "Sensitivity",
    "allocate",
    "gated_layers",
    "gradient_sensitivity",
    "scale_to",
    "single_layer_sensitivity",
]
