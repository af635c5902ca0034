"""One clip with its gates: run once more, and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skippose.context import clips
from skippose.frames_pass import CallRecord
from skippose.visualization.charts import density_bars, density_heat_map, macs_over_time
from skippose.visualization.gate_trace import GateTrace, gated_records
from skippose.visualization.layer_tags import layer_tag
from skippose.visualization.overlay import (
    Image,
    cost_map,
    draw_pose,
    gate_on_frame,
    overlay_gate,
    overlay_heat,
)
from skippose.visualization.strips import COST_LEGEND, GATE_LEGEND, strip

Links = Sequence[Sequence[int]]


@dataclass(frozen=True)
class ClipGates:
    """A clip as the network saw it, and what of it was computed.

    Attributes:
        images: (T, H, W, 3) RGB uint8.
        records: the gated layers' records, with masks, by name.
        trace: densities and MACs.
        keypoints: (T, K, 2) predicted joints in pixels of the images, or None.
        scores: (T, K), or None.
    """

    images: NDArray[np.uint8]
    records: dict[str, CallRecord]
    trace: GateTrace
    keypoints: NDArray[np.floating] | None = None
    scores: NDArray[np.floating] | None = None

    def __len__(self) -> int:
        return len(self.images)

    # -- single frames ---------------------------------------------------------------------------

    def pose(self, t: int, links: Links = ()) -> Image:
        """A frame with its predicted pose."""
        image = self.images[t].copy()
        if self.keypoints is not None and self.scores is not None:
            draw_pose(image, self.keypoints[t], self.scores[t], links)
        return image

    def cost(self, t: int) -> Image:
        """A frame under the map of its MACs over all layers."""
        heat = cost_map(self.records.values(), 0, t, self.images.shape[1:3])
        return overlay_heat(self.images[t], heat)

    def gate(self, t: int, layer: str) -> Image:
        """A frame under one layer's mask."""
        mask = gate_on_frame(self.records[layer], 0, t, self.images.shape[1:3])
        return overlay_gate(self.images[t], mask)

    # -- strips and charts -----------------------------------------------------------------------

    def even_frames(self, count: int) -> list[int]:
        """At most ``count`` frames at even distances, the first and the last among them."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist()

    def pose_strip(self, frames: Sequence[int], links: Links = ()) -> Image:
        """Frames with their predicted poses, side by side."""
        return strip(
            [self.pose(t, links) for t in frames], "predicted pose", [f"frame {t}" for t in frames]
        )

    def cost_strip(self, frames: Sequence[int]) -> Image:
        """Cost maps side by side."""
        gmacs = self.trace.gmacs
        return strip(
            [self.cost(t) for t in frames],
            "MACs by place (GMACs)",
            [f"frame {t}  {gmacs[t]:.3f}" for t in frames],
            COST_LEGEND,
        )

    def gate_strip(self, frames: Sequence[int], layer: str) -> Image:
        """One layer's masks side by side."""
        density = self.trace.density[self.trace.names.index(layer)]
        return strip(
            [self.gate(t, layer) for t in frames],
            layer,
            [f"frame {t}  {density[t]:.0%}" for t in frames],
            GATE_LEGEND,
        )

    def pictures(
        self, layers: Sequence[str], frames: Sequence[int], links: Links = ()
    ) -> Iterator[tuple[str, Image]]:
        """All pictures of the clip by name, one at a time."""
        if self.keypoints is not None:
            yield "pose", self.pose_strip(frames, links)
        yield "cost", self.cost_strip(frames)
        yield "layers_over_time", density_heat_map(self.trace)
        yield "macs_over_time", macs_over_time(self.trace)
        yield "density", density_bars(self.trace)
        for layer in layers:
            yield layer_tag(layer), self.gate_strip(frames, layer)

    def animation(self, layers: Sequence[str], links: Links = ()) -> Iterator[Image]:
        """Frame by frame: pose, cost and chosen layers side by side; small frames enlarged."""
        factor = max(1, 256 // max(self.images.shape[1:3]))
        legend = (*GATE_LEGEND, *COST_LEGEND)
        for t in range(len(self)):
            panels = {"pose": self.pose(t, links), "MACs": self.cost(t)}
            panels.update((layer_tag(layer), self.gate(t, layer)) for layer in layers)
            if factor > 1:
                panels = {n: i.repeat(factor, 0).repeat(factor, 1) for n, i in panels.items()}
            full = "  in full" if self.trace.dense[t] else ""
            yield strip(
                list(panels.values()),
                f"frame {t}  {self.trace.gmacs[t]:.3f} of {self.trace.dense_gmacs:.3f} GMACs{full}",
                list(panels),
                legend,
            )


@torch.no_grad()
def run_clip(model: nn.Module, raw: Tensor, samples: Sequence[Any]) -> ClipGates | None:
    """Runs a clip through an estimator's network once more, with its masks kept.

    Args:
        model: a ``SkipTopdownPoseEstimator``, in evaluation mode.
        raw: (T, 3, H, W) uint8, as the data loader gives it.
        samples: T data samples.

    Returns:
        The clip; None if no layer is gated.
    """
    preprocessor: Any = model.data_preprocessor
    batch = preprocessor({"inputs": [raw], "data_samples": [list(samples)]}, False)
    test_cfg: Any = getattr(model, "test_cfg", None) or {}
    schedule = {key: test_cfg.get(key) for key in ("cut", "refresh_every")}
    with clips(len(raw), keep_masks=True, **schedule) as run:
        output = model(batch["inputs"], mode="tensor")
    records = gated_records(run, model)
    if not records:
        return None
    images = raw.permute(0, 2, 3, 1).cpu().numpy()
    if getattr(preprocessor, "_channel_conversion", True):
        images = images[..., ::-1]  # OpenCV loads BGR; pictures are RGB
    keypoints = scores = None
    head: Any = getattr(model, "head", None)
    if getattr(head, "decoder", None) is not None:
        decoded = head.decode(output)
        keypoints = np.stack([pose.keypoints[0] for pose in decoded])
        scores = np.stack([pose.keypoint_scores[0] for pose in decoded])
    return ClipGates(
        np.ascontiguousarray(images), records, GateTrace.of(run, model), keypoints, scores
    )
