"""A pose estimator whose convolutions are factored into thinner ones."""

from __future__ import annotations

from typing import Any

import torch
from mmpose.registry import MODELS
from torch import Tensor, nn

from skippose.convert import introduce
from skippose.layers import SkipConv2d
from skippose.models.pose_estimators.skip_topdown import SkipTopdownPoseEstimator


class LowRankConv2d(nn.Sequential):
    """A convolution to a few channels and one of 1x1 behind it, in place of a single one.

    Loaded with the weights of the single convolution, it takes their best approximation of that
    rank (the truncated singular value decomposition of the out x (in·k·k) matrix: Zhang et al.,
    CVPR 2015, without their data). Both are gated as the single one was.

    Args:
        conv: the single convolution; without groups.
        rank: channels between the two.
    """

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        device, dtype = conv.weight.device, conv.weight.dtype
        first = nn.Conv2d(
            conv.in_channels,
            rank,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            bias=False,
            padding_mode=conv.padding_mode,
            device=device,
            dtype=dtype,
        )
        second = nn.Conv2d(
            rank, conv.out_channels, 1, bias=conv.bias is not None, device=device, dtype=dtype
        )
        parts: list[nn.Module] = [first, second]
        if isinstance(conv, SkipConv2d):
            parts = [SkipConv2d.from_conv(p, conv.gate, conv.reference) for p in (first, second)]
        super().__init__(*parts)
        self.rank = rank

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        weight = state_dict.pop(f"{prefix}weight", None)
        if weight is not None:
            first, second = factored(weight, self.rank)
            state_dict[f"{prefix}0.weight"], state_dict[f"{prefix}1.weight"] = first, second
            bias = state_dict.pop(f"{prefix}bias", None)
            if bias is not None:
                state_dict[f"{prefix}1.bias"] = bias
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def factored(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a convolution by two.

    Args:
        weight: (O, I, kH, kW).
        rank: R, at most min(O, I·kH·kW).

    Returns:
        (R, I, kH, kW) and (O, R, 1, 1), in the weight's dtype.
    """
    u, s, v = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
    root = s[:rank].sqrt()
    first = (root[:, None] * v[:rank]).view(rank, *weight.shape[1:])
    second = (u[:, :rank] * root)[:, :, None, None]
    return first.to(weight.dtype), second.to(weight.dtype)


@MODELS.register_module()
class LowRankTopdownPoseEstimator(SkipTopdownPoseEstimator):
    """``SkipTopdownPoseEstimator`` with fewer MACs in its dense form, to skip from.

    Takes the checkpoints of the network that is not factored, without training.

    Args:
        share: of the MACs of every convolution larger than 1x1, at most what its factors cost.
            Convolutions with fewer than 16 channels on either side are left as they are.
        **kwargs: as for ``SkipTopdownPoseEstimator``.

    Raises:
        ValueError: for a share outside of (0, 1].
    """

    def __init__(self, share: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        for name, module in list(self.named_modules()):
            if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
                continue
            if module.groups != 1 or min(module.in_channels, module.out_channels) < 16:
                continue
            fan_in = module.weight[0].numel()
            rank = int(share * module.weight.numel() / (fan_in + module.out_channels))
            parent, _, attribute = name.rpartition(".")
            setattr(self.get_submodule(parent), attribute, LowRankConv2d(module, max(rank, 1)))
        introduce(self)
