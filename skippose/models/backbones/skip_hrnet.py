"""HRNet whose convolutions skip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpose.models.backbones import HRNet
from mmpose.models.backbones.resnet import BasicBlock, Bottleneck
from mmpose.registry import MODELS
from torch import Tensor

from skippose.context import checkpoint
from skippose.convert import GateLike, convert_, introduce
from skippose.layers import SkipConv2d
from skippose.ops import Reference

MODELS.register_module(module=SkipConv2d)


class _ClipCheckpoint:
    """Residual blocks whose ``with_cp`` re-enters the clip when it recomputes."""

    def __init__(self, *args: Any, with_cp: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, with_cp=False, **kwargs)  # type: ignore[call-arg]
        self.clip_checkpoint = with_cp

    def forward(self, x: Tensor) -> Tensor:
        plain = super().forward  # type: ignore[misc]
        if self.clip_checkpoint and x.requires_grad:
            return checkpoint(plain, x)
        return plain(x)


class SkipBasicBlock(_ClipCheckpoint, BasicBlock):
    """mmpose's basic block."""


class SkipBottleneck(_ClipCheckpoint, Bottleneck):
    """mmpose's bottleneck."""


@MODELS.register_module()
class SkipHRNet(HRNet):
    """mmpose's HRNet with a gate at every convolution.

    The convolutions are swapped through ``conv_cfg``, so a checkpoint of the dense HRNet loads as
    it is; the only keys it lacks are those of the gates. Outside :func:`skippose.clips` and
    :class:`skippose.Stream` it computes what HRNet computes.

    Args:
        extra: the architecture, as for HRNet.
        gate: config of the gate that every convolution gets, or None for a dense network whose
            costs are counted.
        reference: ``'hold'`` or ``'previous'``, see :class:`SkipConv2d`.
        overrides: gates of single layers by name or glob pattern (``'stage4.*'``), None for a
            dense layer; see :func:`skippose.convert_`.
        **kwargs: as for HRNet. ``with_cp`` works within clips.

    Raises:
        ValueError: for a ``conv_cfg``, which this class sets itself; for an override that matches
            no convolution.
    """

    blocks_dict = {"BASIC": SkipBasicBlock, "BOTTLENECK": SkipBottleneck}

    def __init__(
        self,
        extra: dict[str, Any],
        gate: Mapping[str, Any] | None = None,
        reference: Reference = "hold",
        overrides: Mapping[str, GateLike] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("conv_cfg", None) is not None:
            raise ValueError("SkipHRNet sets conv_cfg itself; give it gate= and reference=")
        conv_cfg = dict(type="mmpose.SkipConv2d", gate=gate, reference=reference)
        super().__init__(extra, conv_cfg=conv_cfg, **kwargs)
        self.gate = gate
        self.reference: Reference = reference
        if overrides:
            convert_(
                self,
                gate,
                overrides=overrides,
                reference=reference,
            )
        introduce(self)

    def train(self, mode: bool = True) -> SkipHRNet:
        """As HRNet's, which returns None, but returns the module as ``nn.Module`` does."""
        super().train(mode)
        for layer in self.modules():
            # Frozen stages are in evaluation mode always; gates follow the network.
            if isinstance(layer, SkipConv2d) and layer.gate is not None:
                layer.gate.train(mode)
        return self
