"""Small networks, and videos in which some things move."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import skippose  # noqa: F401  # makes mmpose.models importable, for the tests beside this file


def architecture(
    width: int, blocks: int, modules: tuple[int, int, int] = (1, 1, 1), first_blocks: int = 1
) -> dict:
    """HRNet's ``extra``."""

    def stage(branches: int, count: int) -> dict:
        return dict(
            num_modules=count,
            num_branches=branches,
            block="BASIC",
            num_blocks=(blocks,) * branches,
            num_channels=tuple(width * 2**i for i in range(branches)),
        )

    first = dict(
        num_modules=1,
        num_branches=1,
        block="BOTTLENECK",
        num_blocks=(first_blocks,),
        num_channels=(64,),
    )
    return dict(stage1=first, **{f"stage{n}": stage(n, modules[n - 2]) for n in (2, 3, 4)})


@pytest.fixture(autouse=True)
def mmpose_scope() -> Iterator[None]:
    """What mmengine's Runner does for a config with mmpose's ``default_scope``."""
    with DefaultScope.overwrite_default_scope("mmpose"):
        yield


@pytest.fixture
def small_extra() -> dict:
    """An HRNet of four branches with few channels and one block everywhere."""
    return architecture(4, 1)


@pytest.fixture(scope="session")
def w32_extra() -> dict:
    """HRNet-W32."""
    return architecture(32, 4, (1, 4, 3), 4)


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Tensor]:
    """``make_video(clips, frames, size, ...)``: (clips * frames, 3, size, size)."""

    def make(
        clips: int,
        frames: int,
        size: int = 64,
        dtype: torch.dtype = torch.float32,
        still: bool = False,
        noise: float = 0.02,
        seed: int = 0,
    ) -> Tensor:
        """A textured patch that moves over a textured scene, under a little noise."""
        draw = torch.Generator().manual_seed(seed)

        def texture(side: int) -> Tensor:
            coarse = torch.randn(1, 3, side // 4, side // 4, generator=draw)
            return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)[0]

        out = torch.empty(clips, frames, 3, size, size)
        side = size // 2
        for b in range(clips):
            scene, patch = texture(size), texture(side)
            for t in range(frames):
                image = scene.clone()
                at = 0 if still else (5 * t + 3 * b) % side
                image[:, at : at + side, at : at + side] = patch
                if not still:
                    image += noise * torch.randn(image.shape, generator=draw)
                out[b, t] = image
        return out.flatten(0, 1).to(dtype)

    return make


@pytest.fixture(scope="session")
def settle() -> Callable[[nn.Module, Tensor], nn.Module]:
    """``settle(net, images)``: batch norms get the statistics of these images, as if trained.

    Without it the features of a network that was only initialised shrink from layer to layer.
    Returns the network in evaluation mode.
    """

    @torch.no_grad()
    def run(net: nn.Module, images: Tensor) -> nn.Module:
        norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        before = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
        net.train()
        net(images)
        for m, momentum in zip(norms, before, strict=True):
            m.momentum = momentum
        net.eval()
        return net

    return run
