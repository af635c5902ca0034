"""Time of a frame on a CPU: dense engines, the paper's own form, and streams, in one run.

    python benchmarks/stream_cpu.py                                # HRNet-W32, 256x256, 2 threads
    python benchmarks/stream_cpu.py --streams torch native native:bfloat16
    python benchmarks/stream_cpu.py --arch small --rounds 3 --busy # seconds, to try it out
    python benchmarks/stream_cpu.py --draw                         # the picture again
    python benchmarks/stream_cpu.py --trained CONFIG CHECKPOINT --streams native

``--trained`` takes a network with its own gates and the test clips of its config, at their crop
windows, instead of random weights; it and ``--reference previous`` leave the picture as it is.

Contestants take turns within a round, so that a ratio is that of two neighbours in time. Streams
run at fixed shares of the MACs, their masks imposed (``clustered``: one region about a person's
shape; ``random``: scattered blocks), and with live gates on real clips. The run refuses to begin,
or to keep its rows, where other processes took more than a few percent of the CPU.

The paper's own form (``im2col``) makes columns of the residual, drops those of closed gates,
multiplies what is left and adds it to the last output; everything between convolutions stays dense.
Its speed-up is that over itself with every gate open, beside the share of the MACs.

ONNX Runtime and OpenVINO take part where they are installed: ``pip install 'skippose[bench]'``.
Rows are appended to ``benchmarks/data/stream_cpu.csv``; the picture is drawn from those of the run.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, DictAction
from mmpose.registry import MODELS
from torch import Tensor, nn
from train_step import PoseNet, architecture, processor, video

import skippose
from skippose.evaluation.clip_bank import build_dataset, file_digest, load_clips
from skippose.evaluation.comparison import build_network, dense_model

HERE = Path(__file__).parent
SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.0)
GRID = 8  # cells per side; a gate's block is one cell on every map down to 8x8
BASE = "eager channels_last"
REST = 0.02  # seconds: torch's threads spin for some ms after a dense frame, on the stream's cores
# fmt: off
CSV_FIELDS = [
    "run", "date", "machine", "torch", "onnxruntime", "openvino", "threads", "commit", "others",
    "arch", "size", "gmacs", "contestant", "mask", "asked", "macs", "rounds",
    "median_ms", "p20_ms", "p80_ms", "speedup", "speedup_p20", "speedup_p80", "of_fixed",
]
# fmt: on


@dataclass
class Contestant:
    """One way to compute a frame.

    Attributes:
        name: what the rows call it.
        run: computes one frame.
        prepare: what must be done before its turn, untimed.
        mask: how its MACs were chosen.
        asked: the share of the MACs that was asked for.
        macs: the share that was computed.
        frames: how many a turn computes, one after the other.
        times: seconds, round by round; of live gates, frame by frame.
        base: the dense network's seconds beside them, where it took its turns apart.
        shares: of the MACs, frame by frame, for live gates.
    """

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], None] = lambda: None
    mask: str = "dense"
    asked: float | str = 1.0
    macs: float = 1.0
    frames: int = 1
    times: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


# -- networks --------------------------------------------------------------------------------------


def trained(args: argparse.Namespace) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """Dense, gated, and (T, 3, size, size) frames of each clip, of a config and a checkpoint."""
    config = Config.fromfile(args.trained[0])
    config.merge_from_dict(args.cfg_options)
    model = config.model.to_dict()
    dense = build_network(dense_model(model), args.trained[1])
    gates = build_network(model, args.trained[1])
    clips = load_clips(build_dataset(config.test_dataloader.dataset.to_dict()), args.live_clips)
    prepare = dense.data_preprocessor
    frames = [
        prepare(dict(inputs=list(clip.inputs[: args.live_frames]), data_samples=[]))["inputs"]
        for clip in clips
    ]
    args.arch = f"{Path(args.trained[0]).stem}_{file_digest(args.trained[1])[:8]}"
    height, width = frames[0].shape[2:]
    if height != width or height % 64:
        raise SystemExit(f"frames of {width}x{height}: they must be square, divisible by 64")
    args.size = height
    return dense.requires_grad_(False), gates.requires_grad_(False), frames


def network(arch: str) -> nn.Module:
    """HRNet with a head, random weights of a usual size, in evaluation mode."""
    torch.manual_seed(0)
    extra = architecture(arch)
    net = PoseNet(MODELS.build(dict(type="HRNet", extra=extra)), extra["stage4"]["num_channels"][0])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1)
            module.bias.data.normal_(0, 0.1)
    net.train(False)
    return net.requires_grad_(False)


class Im2col(nn.Module):
    """A convolution in the paper's form: columns of the residual, closed ones dropped."""

    cells: Tensor | None = None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.x, self.z = conv, None, None
        self.matrix = conv.weight.flatten(1)
        self.where: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if self.x is None:
            self.x, self.z = x.clone(), conv(x)
            return self.z.clone()
        residual = x - self.x
        self.x = x.clone()
        residual.abs().mean(1)  # what its norm gate costs; the decision is imposed
        cells = Im2col.cells
        assert cells is not None
        if id(cells) not in self.where:
            size = (self.z.shape[2], self.z.shape[3])
            mask = F.interpolate(cells[None, None].float(), size, mode="nearest")
            self.where = {id(cells): mask.flatten().nonzero()[:, 0]}
        where = self.where[id(cells)]
        if len(where):
            if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
                columns = residual.flatten(2)[0]
            else:
                columns = F.unfold(
                    residual, conv.kernel_size, conv.dilation, conv.padding, conv.stride
                )[0]
            update = self.matrix @ columns.index_select(1, where)
            self.z[0].flatten(1).index_add_(1, where, update)
        return self.z.clone()


def im2col(net: nn.Module) -> nn.Module:
    """A copy in the paper's form."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and not isinstance(module, Im2col):
                setattr(module, name, Im2col(child))
    return net


def cells(share: float, kind: str) -> Tensor:
    """(GRID, GRID) bool with about this share True."""
    count = 0 if share == 0 else max(1, round(share * GRID**2))
    if kind == "random":
        order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(3))
    else:
        rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        centre = (GRID - 1) / 2
        order = (((rows - centre) / 1.6) ** 2 + (columns - centre) ** 2).flatten().argsort()
    mask = torch.zeros(GRID**2, dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(GRID, GRID)


# -- contestants -----------------------------------------------------------------------------------


def dense_contestants(net: nn.Module, x: Tensor, args: argparse.Namespace) -> list[Contestant]:
    """Eager, compiled, ONNX Runtime, OpenVINO: what is installed."""
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    x_last = x.contiguous(memory_format=torch.channels_last)
    entries = [
        Contestant("eager NCHW", lambda: net(x)),
        Contestant(BASE, lambda: last(x_last)),
    ]
    if "compile" not in args.without:
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(copy.deepcopy(last))
        entries.append(Contestant("torch.compile frozen", lambda: compiled(x_last)))
    try:
        path = onnx_file(net, x, args)
    except ImportError as error:
        print(f"without ONNX Runtime and OpenVINO: {error}; pip install 'skippose[bench]'")
        return entries
    array = x.numpy()
    if "onnxruntime" not in args.without:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        # Waiting threads must not burn the others' time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        entries.append(Contestant("ONNX Runtime", lambda: session.run(None, {name: array})))
    if "openvino" not in args.without:
        import openvino as ov

        model = ov.Core().read_model(path)
        for precision in ("f32", "bf16"):
            settings = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": args.threads,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
            }
            request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
            entries.append(
                Contestant(f"OpenVINO {precision}", lambda r=request: r.infer({0: array}))
            )
    return entries


def onnx_file(net: nn.Module, x: Tensor, args: argparse.Namespace) -> Path:
    """The network as ONNX, made once for each architecture and size.

    Raises:
        ImportError: where something that this takes is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        version_of(name, required=True)
    path = args.work / f"{args.arch}_{args.size}_torch{torch.__version__}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(net, (x,), str(path), dynamo=True, external_data=False, verbose=False)
    return path


class Streaming:
    """One stream, whose masks are imposed before its turns."""

    def __init__(self, net: nn.Module, spec: str, frames: Tensor) -> None:
        name, _, precision = spec.partition(":")
        self.spec, self.frames, self.at = spec, frames, 0
        options = {"precision": precision} if precision else {}
        self.stream = skippose.Stream(net, backend=name, **options)
        self.stream(frames[:1])

    def step(self) -> None:
        """The next frame."""
        self.at = (self.at + 1) % len(self.frames)
        self.stream(self.frames[self.at : self.at + 1])

    def impose(self, mask: Tensor | None) -> None:
        """Imposes a mask; one frame to settle in."""
        self.stream.fix_masks(mask)
        self.step()

    def macs(self) -> float:
        """The share of the MACs that one frame takes now."""
        before = self.stream.report()
        self.step()
        return spent(before, self.stream.report())


def spent(before: skippose.Report, after: skippose.Report) -> float:
    """The share of the MACs that the one frame between two reports took."""
    old = [layer.density_sum for layer in before.layers] or [0.0] * len(after.layers)
    macs = sum(
        layer.macs * (layer.density_sum - was) for layer, was in zip(after.layers, old, strict=True)
    )
    return macs / sum(layer.macs for layer in after.layers)


def stream_name(spec: str, args: argparse.Namespace) -> str:
    """What the rows call a stream."""
    return f"stream {spec}" + (", previous" if args.reference == "previous" else "")


def stream_contestants(net: nn.Module, args: argparse.Namespace) -> list[Contestant]:
    """Streams at all shares, and a still video."""
    frames = video(1, 8, args.size)
    entries = []
    for spec in args.streams:
        streaming = Streaming(net, spec, frames)
        for kind in ("clustered", "random"):
            for share in args.shares:
                mask = cells(share, kind)
                if kind == "random" and share in (0, 1):
                    continue  # the same mask
                streaming.impose(mask)
                entries.append(
                    Contestant(
                        stream_name(spec, args),
                        streaming.step,
                        lambda s=streaming, m=mask: s.impose(m),
                        kind,
                        share,
                        streaming.macs(),
                    )
                )
        still, name = Streaming(net, spec, frames[:1]), stream_name(spec, args)
        entries.append(
            # A single frame's fraction of a millisecond would be what its turn found in the caches.
            Contestant(name, still.step, still.step, "still video", 0.0, still.macs(), frames=20)
        )
    return entries


def im2col_contestants(net: nn.Module, args: argparse.Namespace) -> list[Contestant]:
    """The paper's form at all shares."""
    frames, paper = video(1, 2, args.size), im2col(net)
    paper(frames[:1])
    at = [0]

    def step() -> None:
        at[0] = 1 - at[0]
        paper(frames[at[0] : at[0] + 1])

    entries = []
    for share in args.shares:
        mask = cells(share, "clustered")

        def prepare(mask: Tensor = mask) -> None:
            Im2col.cells = mask
            step()

        macs = float(mask.float().mean())
        entries.append(Contestant("im2col (the paper's)", step, prepare, "clustered", share, macs))
    return entries


# -- live gates ------------------------------------------------------------------------------------


def clips(args: argparse.Namespace) -> list[Tensor]:
    """(T, 3, size, size) of the first frames of some clips; [] where there are none."""
    folders = sorted({p.parent for p in args.clips.glob("**/*.png")})
    folders += sorted({p.parent for p in args.clips.glob("**/*.jpg")})
    step = max(1, len(folders) // max(1, args.live_clips))
    mean, std = np.array([123.7, 116.3, 103.5]), np.array([58.4, 57.1, 57.4])
    result = []
    for folder in folders[::step][: args.live_clips]:
        import cv2

        paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))
        images = [
            (cv2.resize(cv2.imread(str(p))[..., ::-1], (args.size, args.size)) - mean) / std
            for p in paths[: args.live_frames]
        ]
        result.append(torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2).contiguous())
    return result


def live_contestants(
    dense: nn.Module,
    nets: dict[str, nn.Module],
    videos: list[Tensor],
    args: argparse.Namespace,
) -> list[Contestant]:
    """Live gates on real clips, and their masks again without asking; times of all frames.

    Each frame of each stands beside a dense one.
    """
    base = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    entries = []
    for asked, net in nets.items() if videos else ():
        for spec in args.streams:
            backend, _, precision = spec.partition(":")
            options = {"precision": precision} if precision else {}
            live, again = (skippose.Stream(net, backend=backend, **options) for _ in range(2))
            name = stream_name(spec, args)
            entry = Contestant(name, lambda: None, mask="live", asked=asked)
            replay = Contestant(name, lambda: None, mask="replayed", asked=asked, base=entry.base)
            for frames in videos:
                for stream in (live, again):
                    if stream.slots:
                        stream.reset([0])
                for t, frame in enumerate(frames[:, None]):
                    before = live.report()
                    took = timed(live, frame)
                    share = spent(before, live.report()) if t else 0.0
                    if t:
                        repeat_masks(live, again)
                    repeated = timed(again, frame)
                    if share > 0:  # some videos show each picture twice, which costs nothing
                        entry.times.append(took)
                        replay.times.append(repeated)
                        entry.shares.append(share)
                        last = frame.contiguous(memory_format=torch.channels_last)
                        entry.base.append(timed(base, last))
            for e in (entry, replay):
                if entry.shares:
                    e.macs = statistics.mean(entry.shares)
                    entries.append(e)
    return entries


def timed(run: Callable[[Tensor], object], frame: Tensor) -> float:
    """Seconds that a frame takes, after a rest."""
    time.sleep(REST)
    start = time.perf_counter()
    run(frame)
    return time.perf_counter() - start


def repeat_masks(stream: skippose.Stream, other: skippose.Stream) -> None:
    """Imposes on the other stream what the gates of the first one decided for its last frame."""
    other.fix_masks(stream.masks())


def gated(net: nn.Module, eps: float, reference: str = "hold") -> nn.Module:
    """With norm gates whose block is one cell."""
    gate = skippose.InputNormGate(eps, block=64 // GRID)
    return skippose.convert(net, gate, reference=reference).eval()


# -- measuring -------------------------------------------------------------------------------------


class Others:
    """The share of the machine's CPU time that other processes take while this exists."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        stat = Path("/proc/stat")
        if not stat.exists():
            raise SystemExit("other processes' CPU time is read from /proc/stat, which is absent")
        ticks = [int(n) for n in stat.read_text().splitlines()[0].split()[1:]]
        busy = (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")
        own = resource.getrusage(resource.RUSAGE_SELF)
        return busy, own.ru_utime + own.ru_stime, time.perf_counter()

    def share(self) -> float:
        """So far: 0 to 1 of all cores."""
        busy, own, wall = (b - a for a, b in zip(self.start, self._now(), strict=True))
        return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))


def refuse(others: float, args: argparse.Namespace, what: str) -> None:
    """Ends the run where other processes took too much."""
    if others > args.others and not args.busy:
        raise SystemExit(
            f"{what}: other processes take {others:.0%} of the CPU, more than {args.others:.0%}; "
            "times would mean nothing. Stop them, or try the benchmark out with --busy, which "
            "writes no rows"
        )


def measure(entries: list[Contestant], rounds: int) -> None:
    """Everyone once in a round, after a turn that is not timed."""
    for entry in entries:
        entry.prepare()
        entry.run()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
        for entry in entries[number % len(entries) :] + entries[: number % len(entries)]:
            entry.prepare()
            entry.run()
            start = time.perf_counter()
            for _ in range(entry.frames):
                entry.run()
            entry.times.append((time.perf_counter() - start) / entry.frames)


def fastest_rate(seconds: float = 1.0) -> float:
    """GMAC/s of large float32 matrix products: what arithmetic allows, product by product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 1024**3 / (time.perf_counter() - start) / 1e9)
    return best


# -- rows and picture ------------------------------------------------------------------------------


def version_of(package: str, required: bool = False) -> str:
    """Its version, or '' where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError as error:
        if required:
            raise ImportError(f"{package} is not installed") from error
        return ""


def rows(entries: list[Contestant], args: argparse.Namespace, others: float) -> list[dict]:
    """One row of figures for each contestant."""
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    now = datetime.datetime.now()
    common = dict(
        run=now.strftime("%Y%m%d-%H%M%S"),
        date=now.date().isoformat(),
        machine=args.machine,
        torch=torch.__version__,
        onnxruntime=version_of("onnxruntime"),
        openvino=version_of("openvino"),
        threads=args.threads,
        commit=subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        others=f"{others:.3f}",
        arch=args.arch,
        size=args.size,
        gmacs=f"{args.gmacs:.3f}",
    )
    base = next(e for e in entries if e.name == BASE).times
    result = []
    for entry in entries:
        ratios = [a / b for a, b in zip(entry.base or base, entry.times, strict=True)]
        low, high = np.quantile(entry.times, (0.2, 0.8)) * 1e3
        ratio_low, ratio_high = np.quantile(ratios, (0.2, 0.8))
        median = statistics.median(entry.times) * 1e3
        result.append(
            dict(
                common,
                contestant=entry.name,
                mask=entry.mask,
                asked=entry.asked,
                macs=f"{entry.macs:.4f}",
                rounds=len(entry.times),
                median_ms=f"{median:.2f}",
                p20_ms=f"{low:.2f}",
                p80_ms=f"{high:.2f}",
                speedup=f"{statistics.median(ratios):.3f}",
                speedup_p20=f"{ratio_low:.3f}",
                speedup_p80=f"{ratio_high:.3f}",
                of_fixed=of_fixed(entry, entries),
            )
        )
    limit = dict(common, contestant="arithmetic limit", mask="dense", asked=1.0, macs="1.0000")
    limit["median_ms"] = f"{args.gmacs / args.rate * 1e3:.2f}"
    return [*result, limit]


def of_fixed(entry: Contestant, entries: list[Contestant]) -> str:
    """What fixed masks take, over what a frame with live gates took; the median over frames.

    In the row of live gates, clustered masks that open as large a share of the MACs, the same in
    all layers (between two measured shares a straight line); in the row of the masks that those
    gates gave, imposed again, these.
    """
    if entry.mask == "replayed":
        live = next(
            e for e in entries if (e.name, e.mask, e.asked) == (entry.name, "live", entry.asked)
        )
        ratios = [again / took for again, took in zip(entry.times, live.times, strict=True)]
        return f"{statistics.median(ratios):.3f}"
    if entry.mask != "live":
        return ""
    fixed = sorted(
        (e.macs, statistics.median(e.times))
        for e in entries
        if e.name == entry.name and e.mask == "clustered"
    )
    macs, seconds = zip(*fixed, strict=True)
    ratios = [
        float(np.interp(share, macs, seconds)) / took
        for share, took in zip(entry.shares, entry.times, strict=True)
    ]
    return f"{statistics.median(ratios):.3f}"


def show(figures: list[dict]) -> None:
    """The figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="a frame")
    for column in ("", "mask", "asked", "MACs", "ms (p20, p80)", f"x {BASE}", "of fixed"):
        table.add_column(column)
    for r in figures:
        spread = f"{r['median_ms']} ({r.get('p20_ms', '')}, {r.get('p80_ms', '')})"
        speedup = f"{r.get('speedup', '')} ({r.get('speedup_p20', '')}, {r.get('speedup_p80', '')})"
        asked = f"{r['asked']}"
        table.add_row(
            r["contestant"], r["mask"], asked, r["macs"], spread, speedup, r.get("of_fixed", "")
        )
    Console(width=130).print(table)


def save(figures: list[dict], path: Path) -> None:
    """Appends rows; the header is written once.

    Raises:
        ValueError: if the file's columns are others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="") as file:
            header = next(csv.reader(file))
        if header != CSV_FIELDS:
            raise ValueError(f"{path} has the columns {header}, expected {CSV_FIELDS}")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, CSV_FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(figures)


def draw(source: Path, path: Path) -> None:
    """Time against MACs, of the last run in the file of `hold` and no trained network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with source.open(newline="") as file:
        lines = [r for r in csv.DictReader(file) if r["arch"] in ("w32", "small")]
    others = {r["run"] for r in lines if r["contestant"].endswith(", previous")}
    lines = [r for r in lines if r["run"] not in others]
    lines = [r for r in lines if r["run"] == lines[-1]["run"]]
    figure = Figure(figsize=(8, 5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dense: list[tuple[float, str]] = []
    colours = iter(["#0072B2", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#56B4E9"])
    for name in dict.fromkeys(r["contestant"] for r in lines):
        of_name = [r for r in lines if r["contestant"] == name]
        marks = {"clustered": "o-", "random": "s--", "live": "*"}
        if of_name[0]["mask"] == "dense" and name != "arithmetic limit":
            y = float(of_name[0]["median_ms"])
            axes.axhline(y, color="#bbbbbb", linewidth=0.8, zorder=0)
            dense.append((y, name))
        elif name == "arithmetic limit":
            y = float(of_name[0]["median_ms"])
            axes.plot(
                [0, 1],
                [0, y],
                color="black",
                linewidth=0.8,
                linestyle=":",
                label=f"{name}, products one by one",
            )
        else:
            colour = next(colours)
            for kind, style in marks.items():
                points = sorted(
                    (float(r["macs"]), float(r["median_ms"])) for r in of_name if r["mask"] == kind
                )
                if points:
                    label = f"{name}, {kind}"
                    axes.plot(*zip(*points, strict=True), style, color=colour, ms=4, label=label)
    # Names beside the lines, from below, moved up where they would overlap.
    top, last = axes.get_ylim()[1], -1.0
    for y, name in sorted(dense):
        last = max(y, last + 0.035 * top)
        axes.annotate(name, (1.01, last), xycoords=("axes fraction", "data"), va="center", size=7)
    first = lines[0]
    axes.set_xlabel("share of the MACs")
    axes.set_ylabel("milliseconds a frame")
    axes.set_ylim(bottom=0)
    axes.set_title(
        f"HRNet {first['arch']}, {first['size']}x{first['size']}, {first['threads']} threads, "
        f"{first['machine']}",
        size=9,
    )
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = HERE.parent
    data = Path(os.environ.get("SKIPPOSE_DATA", root / "data" / "jhmdb"))
    parser.add_argument("--arch", choices=("w32", "small"), default="w32")
    parser.add_argument("--trained", nargs=2, metavar=("CONFIG", "CHECKPOINT"))
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={}, help="its")
    parser.add_argument("--size", type=int, default=256, help="divisible by 64")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--streams", nargs="+", default=["torch"], metavar="BACKEND[:PRECISION]", help="ours"
    )
    parser.add_argument("--reference", choices=("hold", "previous"), default="hold")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--eps", nargs="*", type=float, default=[0.1, 0.2, 0.4], help="live gates")
    parser.add_argument("--clips", type=Path, default=data, help="folder of frames, searched")
    parser.add_argument("--live-clips", type=int, default=10)
    parser.add_argument("--live-frames", type=int, default=16)
    parser.add_argument(
        "--without", nargs="*", default=[], choices=("compile", "onnxruntime", "openvino", "im2col")
    )
    parser.add_argument("--others", type=float, default=0.08, help="most CPU of other processes")
    parser.add_argument("--busy", action="store_true", help="on a busy machine; writes no rows")
    parser.add_argument("--work", type=Path, default=root / "work_dirs" / "stream_cpu")
    parser.add_argument("--machine", default=processor(), help="how the rows name this machine")
    parser.add_argument("--csv", type=Path, default=HERE / "data" / "stream_cpu.csv")
    parser.add_argument("--picture", type=Path, default=root / "docs" / "images" / "stream_cpu.png")
    parser.add_argument("--draw", action="store_true", help="only the picture")
    args = parser.parse_args()
    if args.trained and args.reference != "hold":
        parser.error("a trained network's config says its reference: use --cfg-options")
    if args.cfg_options and not args.trained:
        parser.error("--cfg-options changes the config of --trained, which is not given")
    if args.size % 64 or args.rounds < 1:
        parser.error("size must be divisible by 64, rounds at least 1")
    return args


@torch.inference_mode()
def main() -> None:
    args = parse_args()
    if args.draw:
        draw(args.csv, args.picture)
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    before = Others()
    time.sleep(2)
    refuse(before.share(), args, "the benchmark does not begin")
    if args.trained:
        with torch.inference_mode(False), torch.no_grad():
            net, streams, videos = trained(args)
        asked = [f"{name.split('.')[-1]} {value}" for name, value in args.cfg_options.items()]
        nets = {", ".join(asked) or "its own": streams}
    else:
        net, videos = network(args.arch), clips(args)
        with torch.inference_mode(False), torch.no_grad():
            streams = gated(net, 0.1, args.reference)
            nets = {f"eps {eps}": gated(net, eps, args.reference) for eps in args.eps}
        if not videos:
            print(f"without live gates: no clip in {args.clips}")
    x = video(1, 1, args.size)
    entries = dense_contestants(net, x, args)
    if "im2col" not in args.without:
        entries += im2col_contestants(net, args)
    entries += stream_contestants(streams, args)
    report = skippose.Stream(streams, backend="eager")
    report(x)
    args.gmacs = report.report().dense_gmacs
    args.rate = fastest_rate()
    others = Others()
    measure(entries, args.rounds)
    entries += live_contestants(net, nets, videos, args)
    taken = others.share()
    figures = rows(entries, args, taken)
    show(figures)
    refuse(taken, args, "no rows were written")
    if not args.busy:
        save(figures, args.csv)
        if not args.trained and args.reference == "hold":
            draw(args.csv, args.picture)


if __name__ == "__main__":
    main()
