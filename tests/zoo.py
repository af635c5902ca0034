"""Small networks and videos, and a gate of a user's own, that tests of many parts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skippose.gates import Gate
from skippose.ops import Convolution

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SKIPPOSE_TEST_DATA", ROOT / ".." / "shared" / "data"))
JHMDB = Path(os.environ.get("SKIPPOSE_DATA", ROOT / "data" / "jhmdb"))


def hrnet(width: int, modules: tuple[int, int, int] = (1, 4, 3), blocks: int = 4) -> nn.Module:
    """HRNet with a head to 15 heatmaps, random weights, batch norm that does something."""
    backbones = pytest.importorskip("mmpose.models.backbones", reason="mmpose builds the HRNet")

    def stage(number: int, count: int) -> dict:
        return dict(
            num_modules=count,
            num_branches=number,
            block="BASIC",
            num_blocks=(blocks,) * number,
            num_channels=tuple(width * 2**i for i in range(number)),
        )

    first = dict(
        num_modules=1, num_branches=1, block="BOTTLENECK", num_blocks=(blocks,), num_channels=(64,)
    )
    extra = dict(stage1=first, **{f"stage{n}": stage(n, modules[n - 2]) for n in (2, 3, 4)})

    class PoseNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbones.HRNet(extra=extra)
            self.head = nn.Conv2d(width, 15, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x)[0])

    return lively(PoseNet())


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of a usual size and batch norm unlike the identity, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            std = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(0, std, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.train(False)
    return net


def real_video(frames: int, slots: int, size: tuple[int, int]) -> Tensor:
    """(frames, slots, 3, H, W): people in videos; slots begin at different frames."""
    folders = [f for f in (JHMDB / "Rename_Images", DATA / "posetrack18" / "images") if f.is_dir()]
    images = sorted(p for f in folders[:1] for p in f.glob("*/*/*") if p.suffix != ".txt")
    if not images:
        pytest.skip(f"no video in {JHMDB} or {DATA}; set SKIPPOSE_DATA or SKIPPOSE_TEST_DATA")
    cv2 = pytest.importorskip("cv2")
    folder = images[0].parent
    # Every second frame: some videos show each picture twice.
    clip = [p for p in images if p.parent == folder][: 2 * frames + slots]
    mean, std = torch.tensor([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])
    read = []
    for path in clip:
        image = cv2.resize(cv2.imread(str(path))[..., ::-1], size[::-1])
        read.append(((torch.from_numpy(image.copy()).float() - mean) / std).permute(2, 0, 1))
    return torch.stack(
        [torch.stack([read[2 * t + s] for s in range(slots)]) for t in range(frames)]
    )


def moving_video(frames: int, slots: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(frames, slots, 3, H, W): a smooth scene, a patch that moves, and a quiet part."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(slots, 3, 6, 6, generator=generator)
    scene = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    side = (size[0] // 3, size[1] // 3)
    thing = torch.randn(slots, 3, *side, generator=generator)
    video = scene.repeat(frames, 1, 1, 1, 1)
    for t in range(frames):
        video[t, :, :, 3 * t : 3 * t + side[0], 2 * t : 2 * t + side[1]] = thing
    return video


class Residual(nn.Module):
    """Branches, in-place activations and an addition, as in every backbone; groups and dilation."""

    def __init__(self, padding_mode: str = "zeros") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.down = nn.Conv2d(4, 6, 3, padding=(1, 0), dilation=(1, 2), padding_mode=padding_mode)
        self.head = nn.Conv2d(6, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        out = self.conv(x)
        out += x
        return self.head(self.relu(self.down(self.relu(out))))


class TwoOutputs(nn.Module):
    """A residual branch and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.linear = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.bn(self.stem(x)).relu_()
        y = self.head((self.conv(x) + x).relu())
        return {"maps": y, "features": self.linear(y.mean((2, 3)))}


class Everything(nn.Module):
    """One of each operation that plans have; any size from 32 on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.wide, self.same = nn.Conv2d(16, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.down, self.point = nn.Conv2d(32, 40, 3, 2, 1), nn.Conv2d(40, 32, 1)
        self.deep, self.grouped = (
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 48, 3, padding=2, dilation=2, groups=4),
        )
        self.up, self.uneven = (
            nn.ConvTranspose2d(48, 20, 4, 2, 1),
            nn.ConvTranspose2d(48, 8, 2, 3, output_padding=1, groups=2),
        )
        self.linear = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.norm(self.stem(x)))
        y = F.leaky_relu(self.wide(x), 0.1)
        y = torch.relu(self.same(y) + y)
        d = self.point(F.silu(self.down(y)))
        y = torch.relu(y + F.interpolate(d, size=y.shape[2:], mode="bilinear"))
        y = F.hardswish(self.deep(y))
        low = F.max_pool2d(y, 3, 2, 1) + F.avg_pool2d(y, 3, 2, 1)
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        g = F.relu6(self.grouped(y))
        t = torch.tanh(self.up(g))
        low = F.interpolate(low, size=g.shape[2:])
        return t, self.linear(t.mean((2, 3))), torch.cat([low, g], 1), self.uneven(g)


class LargestChange(Gate):
    """Scores by the largest change of any element; no norm, and no spec."""

    def on_columns(self, change: Tensor, response: Tensor, conv: Convolution) -> Tensor:
        return change.abs().amax((1, 2))

    def score(self, change: Tensor, conv: Convolution) -> Tensor:
        g, largest = conv.geometry, change.abs().amax(1, keepdim=True)
        return F.max_pool2d(g.pad(largest), g.kernel_size, g.stride, 0, g.dilation)
