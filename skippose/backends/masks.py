"""Where a stream computed, and where it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """Where one gated layer computed in a frame.

    Attributes:
        opened: (S, Hb, Wb) bool, on the CPU or the stream's device: the blocks that were computed.
        block: (rows, columns) of outputs per block.
        size: (H', W'), the layer's outputs; the last blocks may reach beyond them.
    """

    opened: Tensor
    block: tuple[int, int]
    size: tuple[int, int]


def blocks_of(size: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """(Hb, Wb): the blocks that cover (H', W') outputs."""
    return -(-size[0] // block[0]), -(-size[1] // block[1])


class Imposed:
    """Masks in the place of what gates decide, checked.

    Args:
        given: (rows, columns) bool, cells that divide the frame: a block is open if its centre lies
            in a True cell. Or a :class:`Mask` by layer; a layer that is not among them asks its
            gate.
        grids: (Hb, Wb) of the gated layers, by name.
        slots: S.
        device: where the masks are wanted.

    Raises:
        ValueError: for anything else, naming what was found and what is expected.
    """

    def __init__(
        self,
        given: Tensor | Mapping[str, Mask],
        grids: Mapping[str, tuple[int, int]],
        slots: int,
        device: torch.device,
    ) -> None:
        self._cells: Tensor | None = None
        self._masks: dict[str, Tensor] = {}
        self._slots, self._device = slots, device
        if isinstance(given, Tensor):
            if given.dtype != torch.bool or given.dim() != 2 or not given.numel():
                raise ValueError(
                    "imposed cells are a bool tensor (rows, columns), got "
                    f"{tuple(given.shape)} of {given.dtype}"
                )
            self._cells = given.to(device)
            return
        for name, mask in given.items():
            if name not in grids:
                raise ValueError(
                    f"a mask was given for {name!r}, which is no gated layer of the stream; those "
                    f"are {sorted(grids)[:5]}"
                )
            opened, expected = mask.opened, (slots, *grids[name])
            if opened.dtype != torch.bool or tuple(opened.shape) != expected:
                raise ValueError(
                    f"the mask of layer {name!r} is {tuple(opened.shape)} of {opened.dtype}; "
                    f"expected {expected} of torch.bool"
                )
            self._masks[name] = opened.to(device)

    def on(self, layer: str | None, grid: tuple[int, int]) -> Tensor | None:
        """The mask of one layer, (S, Hb, Wb) bool; None where its gate is asked.

        Args:
            layer: its name; None for one without a gate, which cells alone are imposed on.
            grid: (Hb, Wb), its blocks.
        """
        if self._cells is None:
            return None if layer is None else self._masks.get(layer)
        rows, columns = (
            (2 * torch.arange(n, dtype=torch.long, device=self._device) + 1) * size // (2 * n)
            for n, size in zip(grid, self._cells.shape, strict=True)
        )
        return self._cells[rows[:, None], columns].expand(self._slots, *grid)
