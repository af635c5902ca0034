"""Time and memory of a training step, gated against dense, in one interleaved run.

    python benchmarks/train_step.py                                # HRNet-W32, 256x256, 1 x 4
    python benchmarks/train_step.py --size 128 --clips 2
    python benchmarks/train_step.py --threads 1 --clock cpu        # on a busy machine
    python benchmarks/train_step.py --arch small --rounds 5        # seconds, to try it out

Every contestant makes the same step on the same frames: forward, heatmap loss (and the gate loss
where gates learn), backward, Adam. They take turns within a round, so that whatever else the
machine does falls on all of them, and a ratio is that of two neighbours in time. The gates are
live: the run fails if a contestant's density leaves 0.1 to 0.9.

Memory is the most that torch's allocator holds at once during a step: weights, buffers and the
optimiser's state, plus the peak of what the step allocates. On a GPU it is
``torch.cuda.max_memory_allocated``; on a CPU it is added up from the allocations and releases that
torch.profiler records, in a step of its own that is not timed. Unlike the resident set size, it has
no part in what malloc keeps for later, and is the same every time.

Rows are appended to ``benchmarks/data/train_step.csv``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmpose.registry import MODELS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import skippose
from skippose.frames_pass import FramesPass
from skippose.models import SkipHRNet
from skippose.ops import Reference

JOINTS = 15
LIVE = (0.1, 0.9)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TARGETS = {  # of time and memory, as multiples of dense
    "previous": (1.5, 1.6),
    "hold": (2.0, None),
    "gumbel previous": (1.7, None),
    "gumbel hold": (2.2, None),
}
# fmt: off
CSV_FIELDS = [
    "date", "machine", "device", "torch", "threads", "clock", "commit",
    "arch", "size", "clips", "frames", "eps", "init_open", "contestant", "density", "rounds",
    "median_s", "p20_s", "p80_s", "ratio", "ratio_p20", "ratio_p80", "memory_mib", "memory_ratio",
]
# fmt: on


def architecture(name: str) -> dict[str, Any]:
    """HRNet's ``extra`` for ``'w32'``, or a narrow and shallow one for ``'small'``."""
    modules, blocks, width = (1, 4, 3), 4, 32
    if name == "small":
        modules, blocks, width = (1, 1, 1), 1, 8

    def stage(number: int, count: int) -> dict[str, Any]:
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
    return dict(stage1=first, **{f"stage{n}": stage(n, modules[n - 2]) for n in (2, 3, 4)})


def video(clips: int, frames: int, size: int, seed: int = 0) -> Tensor:
    """(clips * frames, 3, size, size): a still scene, textured things that move, camera noise."""
    rng = np.random.default_rng(seed)

    def texture(height: int, width: int) -> Tensor:
        coarse = torch.from_numpy(rng.standard_normal((1, 3, height // 8 + 1, width // 8 + 1)))
        smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
        return smooth + 0.2 * torch.from_numpy(rng.standard_normal((3, height, width)))

    out = torch.empty(clips, frames, 3, size, size)
    side = size * 3 // 8
    for b in range(clips):
        scene, things = texture(size, size), [texture(side, side) for _ in range(2)]
        places = rng.integers(0, size - side, (2, 2))
        speeds = rng.integers(-size // 24, size // 24 + 1, (2, 2))
        for t in range(frames):
            image = scene.clone()
            for thing, place, speed in zip(things, places, speeds, strict=True):
                y, x = np.clip(place + t * speed, 0, size - side)
                image[:, y : y + side, x : x + side] = thing
            out[b, t] = image + 0.01 * torch.from_numpy(rng.standard_normal(image.shape))
    return out.flatten(0, 1)


class PoseNet(nn.Module):
    """A backbone and one 1x1 convolution to heatmaps."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[0])


@dataclass
class Contestant:
    """One network with its optimiser, and what was measured of it."""

    name: str
    net: nn.Module
    frames: int
    gated: bool
    times: list[float] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    memory: int = 0

    def __post_init__(self) -> None:
        # Small steps: the weights must not run away from the densities that were asked for.
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-6)

    def step(self, images: Tensor, heatmaps: Tensor) -> FramesPass | None:
        """One training step."""
        self.optimiser.zero_grad(set_to_none=True)
        run = None
        if self.gated:
            with skippose.clips(self.frames) as run:
                output = self.net(images)
            share = run.gate_loss()
            loss = F.mse_loss(output, heatmaps)
            if share.requires_grad:
                loss = loss + 1e-4 * share
        else:
            loss = F.mse_loss(self.net(images), heatmaps)
        loss.backward()
        self.optimiser.step()
        return run

    def held(self) -> int:
        """Bytes of weights, buffers and optimiser state."""
        states = chain.from_iterable(s.values() for s in self.optimiser.state.values())
        tensors = chain(self.net.parameters(), self.net.buffers(), states)
        return sum(t.nbytes for t in tensors if isinstance(t, Tensor))


def contestants(args: argparse.Namespace, device: torch.device) -> list[Contestant]:
    """Dense HRNet and its gated forms, all with the same weights."""
    extra = architecture(args.arch)
    channels = extra["stage4"]["num_channels"][0]
    torch.manual_seed(args.seed)
    dense = PoseNet(MODELS.build(dict(type="HRNet", extra=extra)), channels)
    weights = dense.state_dict()
    entries = [Contestant("dense", dense.to(device).train(), args.frames, gated=False)]

    norm = dict(type="InputNormGate", train_gates=True)
    gumbel = dict(type="GumbelGate", init_open=args.init_open)
    forms: list[tuple[str, Reference, dict[str, Any]]] = [
        ("previous", "previous", dict(norm, eps=args.eps_previous)),
        ("hold", "hold", dict(norm, eps=args.eps_hold)),
        ("gumbel previous", "previous", gumbel),
        ("gumbel hold", "hold", gumbel),
    ]
    for name, reference, gate in forms:
        net = PoseNet(SkipHRNet(extra, gate=gate, reference=reference), channels)
        net.head = skippose.convert_(net.head, gate, reference=reference)
        lacking = net.load_state_dict(weights, strict=False)
        assert not lacking.unexpected_keys
        assert all(".gate." in key for key in lacking.missing_keys), lacking.missing_keys
        entries.append(Contestant(name, net.to(device).train(), args.frames, gated=True))
    return entries


def peak_memory(contestant: Contestant, images: Tensor, heatmaps: Tensor) -> int:
    """Bytes that torch's allocator holds at the worst moment of a step."""
    if images.is_cuda:
        others = torch.cuda.memory_allocated() - contestant.held()
        torch.cuda.reset_peak_memory_stats()
        contestant.step(images, heatmaps)
        return torch.cuda.max_memory_allocated() - others
    contestant.optimiser.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        contestant.step(images, heatmaps)
    results = profiler.profiler.kineto_results
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    if not changes:
        raise RuntimeError("torch.profiler recorded no allocation; its memory events are needed")
    changes.sort(key=lambda change: change[0])
    live = np.cumsum([nbytes for _, nbytes in changes])
    return contestant.held() + int(live.max())


def measure(args: argparse.Namespace, device: torch.device) -> list[Contestant]:
    """All contestants, their times in rounds and their memory."""
    entries = contestants(args, device)
    images = video(args.clips, args.frames, args.size, args.seed).to(device)
    heatmaps = torch.rand(len(images), JOINTS, args.size // 4, args.size // 4, device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = CLOCKS[args.clock]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("warming up", total=len(entries) * (args.rounds + 2))
        for entry in entries:
            entry.step(images, heatmaps)
            progress.advance(task)
        for number in range(args.rounds):
            # Everyone is first in some round.
            for entry in entries[number % len(entries) :] + entries[: number % len(entries)]:
                progress.update(task, description=f"{entry.name:<16}")
                wait()
                start = clock()
                run = entry.step(images, heatmaps)
                wait()
                entry.times.append(clock() - start)
                if run is not None:
                    entry.densities.append(1 - run.report(entry.net).sparsity)
                del run
                progress.advance(task)
        for entry in entries:
            progress.update(task, description=f"memory, {entry.name:<16}")
            entry.memory = peak_memory(entry, images, heatmaps)
            progress.advance(task)
    return entries


def check_density(entries: list[Contestant]) -> None:
    """Raises RuntimeError where the gates were (nearly) all open or closed in some round."""
    for entry in entries:
        if entry.gated and not all(LIVE[0] <= d <= LIVE[1] for d in entry.densities):
            raise RuntimeError(
                f"the gates of {entry.name!r} are not live: mean densities from "
                f"{min(entry.densities):.3f} to {max(entry.densities):.3f}, expected {LIVE[0]} to "
                f"{LIVE[1]}; change --eps-previous, --eps-hold or --init-open"
            )


def rows(args: argparse.Namespace, device: torch.device, entries: list[Contestant]) -> list[dict]:
    """One row of figures per contestant."""
    dense = entries[0]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    result = []
    for entry in entries:
        ratios = [a / b for a, b in zip(entry.times, dense.times, strict=True)]
        low, high = np.quantile(entry.times, (0.2, 0.8))
        ratio_low, ratio_high = np.quantile(ratios, (0.2, 0.8))
        eps = {"previous": args.eps_previous, "hold": args.eps_hold}.get(entry.name, "")
        result.append(
            dict(
                date=datetime.date.today().isoformat(),
                machine=args.machine,
                device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(),
                torch=torch.__version__,
                threads=torch.get_num_threads(),
                clock=args.clock,
                commit=commit,
                arch=args.arch,
                size=args.size,
                clips=args.clips,
                frames=args.frames,
                eps=eps,
                init_open=args.init_open if "gumbel" in entry.name else "",
                contestant=entry.name,
                density=f"{statistics.mean(entry.densities):.3f}" if entry.densities else "",
                rounds=args.rounds,
                median_s=f"{statistics.median(entry.times):.4f}",
                p20_s=f"{low:.4f}",
                p80_s=f"{high:.4f}",
                ratio=f"{statistics.median(ratios):.3f}",
                ratio_p20=f"{ratio_low:.3f}",
                ratio_p80=f"{ratio_high:.3f}",
                memory_mib=f"{entry.memory / 2**20:.1f}",
                memory_ratio=f"{entry.memory / dense.memory:.3f}",
            )
        )
    return result


def show(figures: list[dict]) -> None:
    """The figures as a table, beside what they should be."""
    table = Table(title="training step")
    for column in ("", "density", "s (p20, p80)", "x dense (p20, p80)", "target"):
        table.add_column(column)
    for column in ("MiB", "x dense", "target"):
        table.add_column(column, justify="right")
    for row in figures:
        time_target, memory_target = TARGETS.get(row["contestant"], (None, None))
        table.add_row(
            row["contestant"],
            row["density"],
            f"{row['median_s']} ({row['p20_s']}, {row['p80_s']})",
            f"{row['ratio']} ({row['ratio_p20']}, {row['ratio_p80']})",
            f"<= {time_target}" if time_target else "",
            row["memory_mib"],
            row["memory_ratio"],
            f"<= {memory_target}" if memory_target else "",
        )
    Console(width=120).print(table)


def save(figures: list[dict], path: Path, fields: Sequence[str] = CSV_FIELDS) -> None:
    """Appends rows; the header is written once.

    Raises:
        ValueError: if the file's columns are others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="") as file:
            header = next(csv.reader(file))
        if header != list(fields):
            raise ValueError(f"{path} has the columns {header}, expected {list(fields)}")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(figures)


def processor() -> str:
    """The processor's name and its number of cores, without the host's name."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=("w32", "small"), default="w32")
    parser.add_argument("--size", type=int, default=256, help="pixels per side, divisible by 32")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, default=4, help="per clip")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="'cpu' counts the process's own time: on a busy machine, with --threads 1",
    )
    parser.add_argument("--eps-previous", type=float, default=0.35, help="relative threshold")
    parser.add_argument("--eps-hold", type=float, default=0.35, help="relative threshold")
    parser.add_argument("--init-open", type=float, default=0.0, help="initial logit, Gumbel gates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default=processor(), help="how the rows name this machine")
    parser.add_argument(
        "--csv", type=Path, default=Path(__file__).parent / "data" / "train_step.csv"
    )
    args = parser.parse_args()
    if args.clock == "cpu" and (args.threads > 1 or args.device != "cpu"):
        parser.error("--clock cpu needs --threads 1 and --device cpu; waiting threads burn time")
    if args.size % 32 or min(args.size, args.clips, args.rounds) < 1 or args.frames < 2:
        parser.error("size must be divisible by 32, clips and rounds at least 1, frames at least 2")
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    entries = measure(args, device)
    figures = rows(args, device, entries)
    show(figures)
    check_density(entries)
    save(figures, args.csv)


if __name__ == "__main__":
    main()
