"""A detector: depthwise convolutions, squeeze-and-excitation, a weighted pyramid, shared heads."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

import skippose
from skippose import InputNormGate
from skippose.backends.native.backend import NativeBackend
from skippose.plan.capture import capture

LEVELS = 5


class Separable(nn.Module):
    """A depthwise and a 1x1 convolution."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.point = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.depthwise(x))


class BiFPN(nn.Module):
    """From coarse to fine and back, maps of one place added with learned weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def convs() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(Separable(channels, channels), nn.BatchNorm2d(channels))
                for _ in range(LEVELS - 1)
            )

        self.up, self.down = convs(), convs()
        self.weights = nn.Parameter(torch.rand(2, LEVELS - 1, 3))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        inner = list(maps)
        for i in reversed(range(LEVELS - 1)):
            above = F.interpolate(inner[i + 1], maps[i].shape[2:], mode="nearest")
            inner[i] = self.up[i](self._fuse(self.weights[0, i], maps[i], above))
        out = inner[:1]
        for i in range(1, LEVELS):
            below = F.max_pool2d(out[-1], 3, 2, 1)
            parts = (maps[i], inner[i], below) if i < LEVELS - 1 else (maps[i], below)
            out.append(self.down[i - 1](self._fuse(self.weights[1, i - 1], *parts)))
        return out

    def _fuse(self, weights: Tensor, *maps: Tensor) -> Tensor:
        weights = F.relu(weights[: len(maps)])
        weights = weights / (weights.sum() + 1e-4)
        return F.silu(sum(w * x for w, x in zip(weights, maps, strict=True)))


class EfficientDet(nn.Module):
    """EfficientDet-D0 with few channels: (S, 3, H, W) to classes and boxes of five levels."""

    def __init__(self, channels: int = 16, classes: int = 3, anchors: int = 9) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models", reason="torchvision has the backbone")
        self.backbone = models.efficientnet_b0(weights=None).features[:8]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))
            for width in (40, 112, 320, 320)
        )
        self.pyramid = nn.Sequential(BiFPN(channels), BiFPN(channels))
        self.tower = nn.ModuleList(Separable(channels, channels) for _ in range(2))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(LEVELS)) for _ in range(2)
        )
        self.classes = Separable(channels, anchors * classes)
        self.boxes = Separable(channels, anchors * 4)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        maps = []
        for i, stage in enumerate(self.backbone):
            x = stage(x)
            if i in (3, 5, 7):
                maps.append(self.lateral[len(maps)](x))
        maps.append(F.max_pool2d(self.lateral[3](x), 3, 2, 1))
        maps.append(F.max_pool2d(maps[-1], 3, 2, 1))
        found: dict[str, list[Tensor]] = {"classes": [], "boxes": []}
        for level, y in enumerate(self.pyramid(maps)):
            for conv, norms in zip(self.tower, self.norms, strict=True):
                y = F.silu(norms[level](conv(y)))
            found["classes"].append(self.classes(y))
            found["boxes"].append(self.boxes(y))
        return found


def test_it_is_captured(make_lively):
    net = skippose.convert(make_lively(EfficientDet()), InputNormGate(0.1, block=4)).eval()
    plan = capture(net, torch.randn(1, 3, 128, 128))
    keys = [str(op.key) for op in plan.gated]
    assert [key for key in keys if "boxes.point" in key] == [f"boxes.point#{i}" for i in range(5)]
    heads = 8 * (LEVELS - 1)  # each convolution of the heads is called once more for each level
    assert len(keys) == sum(isinstance(m, nn.Conv2d) for m in net.modules()) + heads


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("reference", ["hold", "previous"])
def test_streams_are_the_step_form(reference, backend, make_lively, make_moving_video):
    if backend == "native" and (reason := NativeBackend.unavailable()):
        pytest.skip(reason)
    net = make_lively(EfficientDet())
    net = skippose.convert(net, InputNormGate(0.1, block=4), reference=reference).eval()
    streams = [skippose.Stream(net, backend=name) for name in ("eager", backend)]
    for frame in make_moving_video(4, 2, (128, 96)):
        expected, found = (pytree.tree_flatten(stream(frame))[0] for stream in streams)
        for a, b in zip(expected, found, strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max()
    expected, found = (stream.report() for stream in streams)
    assert found.gmacs == pytest.approx(expected.gmacs, rel=0.02)
    assert 0 < found.gmacs < 0.9 * found.dense_gmacs
