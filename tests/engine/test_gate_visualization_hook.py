"""Pictures of gates, read back from the vis backends' own files."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from mmpose.registry import HOOKS, MODELS
from mmpose.structures import PoseDataSample
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import skippose
from skippose.engine import GateVisualizationHook
from skippose.visualization import overlay_gate
from skippose.visualization.strips import BAR

SIZE, FRAMES = 64, 5
STEP = 6  # pixels that the patch moves per frame


@pytest.fixture(autouse=True)
def nothing_global(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Visualizer, "_instance_dict", type(Visualizer._instance_dict)())
    with DefaultScope.overwrite_default_scope("mmpose"):
        yield


def model(bgr_to_rgb: bool = True, **gate: object) -> nn.Module:
    def stage(branches: int) -> dict:
        return dict(
            num_modules=1,
            num_branches=branches,
            block="BASIC",
            num_blocks=(1,) * branches,
            num_channels=tuple(4 * 2**i for i in range(branches)),
        )

    first = dict(
        num_modules=1, num_branches=1, block="BOTTLENECK", num_blocks=(1,), num_channels=(64,)
    )
    extra = dict(stage1=first, **{f"stage{n}": stage(n) for n in (2, 3, 4)})
    settings = dict(type="InputNormGate", eps=0.0, block_mode="fixed")
    settings.update(gate)
    settings = {key: value for key, value in settings.items() if value is not None}
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type="SkipTopdownPoseEstimator",
            data_preprocessor=dict(
                type="ClipPoseDataPreprocessor",
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                bgr_to_rgb=bgr_to_rgb,
            ),
            backbone=dict(type="SkipHRNet", extra=extra, gate=settings),
            head=dict(
                type="HeatmapHead",
                in_channels=4,
                out_channels=3,
                deconv_out_channels=None,
                loss=dict(type="KeypointMSELoss"),
                decoder=dict(
                    type="MSRAHeatmap", input_size=(SIZE, SIZE), heatmap_size=(16, 16), sigma=1
                ),
            ),
        )
    ).eval()


def moving_patch() -> NDArray[np.uint8]:
    """(T, H, W, 3) as OpenCV loads it: a coloured patch that moves over a still scene."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 200, (SIZE, SIZE, 3), np.uint8)
    video = np.repeat(scene[None], FRAMES, 0)
    for t in range(FRAMES):
        at = 8 + STEP * t
        video[t, 20:32, at : at + 12] = (250, 220, 210)
    return video


def batch(video: NDArray[np.uint8], name: str = "videos/walk#1") -> dict:
    samples = []
    for t in range(len(video)):
        one = PoseDataSample(metainfo=dict(clip_id=name, frame=t, labelled=True))
        one.gt_instances = InstanceData(bboxes=np.zeros((1, 4)))
        samples.append(one)
    inputs = torch.from_numpy(video).permute(0, 3, 1, 2).contiguous()
    return dict(inputs=[inputs], data_samples=[samples])


def runner(tmp_path: Path, net: nn.Module, backend: str = "TensorboardVisBackend") -> object:
    visualizer = Visualizer.get_instance(
        "gates", vis_backends=[dict(type=backend)], save_dir=str(tmp_path)
    )
    return SimpleNamespace(model=net, visualizer=visualizer, iter=42, _train_loop=object())


def pictures(tmp_path: Path) -> dict[str, NDArray[np.uint8]]:
    """Tag to (H, W, 3) RGB, out of the event file."""
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path)).Reload()
    out = {}
    for tag in events.Tags()["images"]:
        (event,) = events.Images(tag)
        assert event.step == 42
        png = np.frombuffer(event.encoded_image_string, np.uint8)
        out[tag] = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return out


def test_it_is_registered() -> None:
    assert type(HOOKS.build(dict(type="GateVisualizationHook"))) is GateVisualizationHook


@pytest.mark.parametrize("stage", ["val", "test"])
def test_strips_of_cost_and_layers_in_tensorboard(tmp_path: Path, stage: str) -> None:
    run = runner(tmp_path, model())
    hook = GateVisualizationHook(num_frames=3)
    getattr(hook, f"after_{stage}_iter")(run, 0, batch(moving_patch()), None)
    run.visualizer.close()
    seen = pictures(tmp_path)
    strips = {
        f"gates/walk#1/{name}"
        for name in (
            "pose",
            "cost",
            "stem/conv1",
            "stage2/0/branch0/0/conv1",
            "stage3/0/branch0/0/conv1",
            "stage4/0/branch0/0/conv1",
            "head/final_layer",
        )
    }
    charts = {f"gates/walk#1/{n}" for n in ("layers_over_time", "macs_over_time", "density")}
    assert set(seen) == strips | charts
    assert {seen[tag].shape for tag in strips} == {(SIZE + 2 * BAR, 3 * SIZE, 3)}
    assert all(min(seen[tag].shape[:2]) > 200 for tag in charts)


def test_no_more_layers_than_are_wanted(tmp_path: Path) -> None:
    run = runner(tmp_path, model())
    hook = GateVisualizationHook(layers=["*"], num_frames=2, max_layers=3)
    hook.after_val_iter(run, 0, batch(moving_patch()), None)
    run.visualizer.close()
    layers = [tag for tag in pictures(tmp_path) if tag.count("/") > 2]
    assert len(layers) == 3


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_the_first_layers_mask_pixel_by_pixel(tmp_path: Path, bgr_to_rgb: bool) -> None:
    video = moving_patch()
    run = runner(tmp_path, model(bgr_to_rgb))
    hook = GateVisualizationHook(layers=["backbone.conv1"], num_frames=FRAMES)
    hook.after_val_iter(run, 0, batch(video), None)
    run.visualizer.close()
    strip = pictures(tmp_path)["gates/walk#1/stem/conv1"][2 * BAR :]

    for t in range(FRAMES):
        # A 3x3 convolution of stride 2 and padding 1: output (i, j) reads 2i-1 to 2i+1.
        changed = np.pad((video[t] != video[t - 1]).any(-1), 1) if t else None
        mask = np.ones((SIZE // 2, SIZE // 2), bool)
        for i, j in np.ndindex(mask.shape):
            if changed is not None:
                mask[i, j] = changed[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].any()
        assert mask.all() if t == 0 else 0.02 < mask.mean() < 0.2
        frame = video[t, ..., ::-1] if bgr_to_rgb else video[t]
        expected = overlay_gate(np.ascontiguousarray(frame), mask.repeat(2, 0).repeat(2, 1))
        np.testing.assert_array_equal(strip[:, t * SIZE : (t + 1) * SIZE], expected)


def test_frames_are_at_even_distances(tmp_path: Path) -> None:
    video = np.stack([np.full((SIZE, SIZE, 3), 20 * t, np.uint8) for t in range(9)])
    run = runner(tmp_path, model())
    hook = GateVisualizationHook(layers=["backbone.conv1"], num_frames=3, max_length=5)
    hook.after_val_iter(run, 0, batch(video), None)
    run.visualizer.close()
    strip = pictures(tmp_path)["gates/walk#1/stem/conv1"][2 * BAR :]
    computed = [
        overlay_gate(np.full((1, 1, 3), 20 * t, np.uint8), np.ones((1, 1), bool))[0, 0].tolist()
        for t in (0, 2, 4)
    ]
    assert [strip[0, SIZE * i].tolist() for i in range(3)] == computed


def test_pictures_reach_the_local_backend_too(tmp_path: Path) -> None:
    """mmpose's default: a folder of PNG files."""
    run = runner(tmp_path, model(), "LocalVisBackend")
    GateVisualizationHook(num_frames=2).after_val_iter(run, 0, batch(moving_patch()), None)
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == 10
    sizes = [cv2.imread(str(file)).shape for file in files]
    assert sizes.count((SIZE + 2 * BAR, 2 * SIZE, 3)) == 7


@pytest.mark.parametrize("name", ["videos/walk#/..", "videos/walk#/../..", "/..", "a/..#b/../../x"])
def test_pictures_stay_in_their_folder_whatever_the_clip_is_called(
    tmp_path: Path, name: str
) -> None:
    """A clip's id is made of what an annotation file says, its track id among that."""
    run = runner(tmp_path, model(), "LocalVisBackend")
    hook = GateVisualizationHook(num_frames=2, layers=["head.final_layer"])
    hook.after_val_iter(run, 0, batch(moving_patch(), name), None)
    (tags,) = tmp_path.rglob("gates")
    found = list(tmp_path.rglob("*.png"))
    assert len(found) == 6
    (clip,) = tags.iterdir()  # all in one folder there
    assert all(clip in path.parents for path in found)


def test_a_clip_keeps_its_own_name(tmp_path: Path) -> None:
    run = runner(tmp_path, model())
    hook = GateVisualizationHook(num_frames=2, layers=["head.final_layer"])
    # The second part of a divided track.
    hook.after_val_iter(run, 0, batch(moving_patch(), "videos/(two) steps!#3/2"), None)
    assert "gates/(two) steps!#3_2/pose" in pictures(tmp_path)


def test_the_networks_outputs_and_mode_are_left_alone(tmp_path: Path) -> None:
    net = model()
    data = batch(moving_patch())
    kept = data["inputs"][0].clone()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    GateVisualizationHook().after_val_iter(runner(tmp_path, net), 0, data, None)
    assert torch.equal(data["inputs"][0], kept)
    assert not net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("hook", "batch_idx"),
    [
        (GateVisualizationHook(num_clips=1), 1),
        (GateVisualizationHook(num_clips=0), 0),
        (GateVisualizationHook(enable=False), 0),
    ],
)
def test_other_clips_are_not_drawn(
    tmp_path: Path, hook: GateVisualizationHook, batch_idx: int
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("drawn")

    run = SimpleNamespace(model=fail, visualizer=SimpleNamespace(add_image=fail), iter=0)
    hook.after_val_iter(run, batch_idx, batch(moving_patch()), None)
    hook.after_test_iter(run, batch_idx, batch(moving_patch()), None)


def test_single_images_and_dense_networks_have_no_gates_to_show(tmp_path: Path) -> None:
    net = model()
    run = runner(tmp_path, net)
    image = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    GateVisualizationHook().after_val_iter(run, 0, dict(inputs=[image], data_samples=[None]))
    for layer in net.modules():
        if isinstance(layer, skippose.SkipConv2d):
            layer.set_gate(None)
    GateVisualizationHook().after_val_iter(run, 0, batch(moving_patch()))
    run.visualizer.close()
    for path in tmp_path.rglob("events.out.tfevents.*"):
        assert EventAccumulator(str(path)).Reload().Tags()["images"] == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_frames", 0), ("max_length", 0), ("interval", -1), ("max_layers", -1)],
)
def test_bad_arguments(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=argument):
        GateVisualizationHook(**{argument: value})


# -- training ------------------------------------------------------------------------------------


class Untrained:
    """A runner that has not built its training loop, and must not."""

    _train_loop = dict(type="EpochBasedTrainLoop")

    def __init__(self, model: object, visualizer: object) -> None:
        self.model, self.visualizer = model, visualizer

    @property
    def iter(self) -> int:
        raise AssertionError("mmengine would build the training loop here")


def test_a_test_builds_no_training_loop(tmp_path: Path) -> None:
    run = runner(tmp_path, model())
    alone = Untrained(run.model, run.visualizer)
    GateVisualizationHook().after_test_iter(alone, 0, batch(moving_patch()), None)
    run.visualizer.close()
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(path)).Reload()
    assert {e.step for tag in found.Tags()["images"] for e in found.Images(tag)} == {0}


def training_step(hook: GateVisualizationHook, run: object, iteration: int) -> torch.Tensor:
    """What mmengine's loop does around a step; returns the network's output."""
    video = torch.from_numpy(moving_patch()).permute(0, 3, 1, 2) / 255
    run.iter = iteration
    hook.before_train_iter(run, iteration, None)
    with skippose.clips(FRAMES):
        output = run.model(video.float(), mode="tensor")
    log = dict(loss=torch.ones(()), loss_gate=torch.tensor(0.25))
    hook.after_train_iter(run, iteration, None, log)
    return output


def events(tmp_path: Path) -> EventAccumulator:
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    return EventAccumulator(str(path)).Reload()


def test_training_scalars_and_histograms(tmp_path: Path) -> None:
    net = model(type="GumbelGate", eps=None, init_open=0.5).train()
    run = runner(tmp_path, net)
    training_step(GateVisualizationHook(interval=1), run, 6)
    run.visualizer.close()
    seen = events(tmp_path)
    layers = [
        name
        for name, m in net.named_modules()
        if isinstance(m, skippose.SkipConv2d) and m.gate is not None
    ]
    scalars = seen.Tags()["scalars"]
    per_layer = [tag for tag in scalars if tag.startswith("gates.") and tag.endswith("/density")]
    assert len(per_layer) == len(layers) > 30
    assert "gates.stage4/0/branch3/0/conv2/density" in per_layer
    assert {"gates/density", "gates/gmacs", "gates/share", "gates/loss"} < set(scalars)
    groups = {tag.partition("/")[0] for tag in scalars}
    assert groups == {"gates"} | {
        f"gates.{part}"
        for part in (
            "stem", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3",
            "stage4", "head",
        )
    }  # fmt: skip
    (event,) = seen.Scalars("gates/loss")
    assert (event.step, event.value) == (7, 0.25)
    with skippose.clips(FRAMES) as again:
        net(torch.rand(FRAMES, 3, SIZE, SIZE), mode="tensor")
    dense = again.report(net).dense_gmacs
    (gmacs,) = seen.Scalars("gates/gmacs")
    assert 0 < gmacs.value <= 1.1 * dense

    histograms = seen.Tags()["histograms"]
    assert set(histograms) == {
        f"gates.{name}/logits"
        for name in (
            "stem/conv1", "stage2/0/branch0/0/conv1", "stage3/0/branch0/0/conv1",
            "stage4/0/branch0/0/conv1", "head/final_layer",
        )
    }  # fmt: skip
    (histogram,) = seen.Histograms("gates.stem/conv1/logits")
    bias = float(net.backbone.conv1.gate.bias.detach())
    # Most of the scene is still: its logit is c.
    value = histogram.histogram_value
    assert value.min <= bias <= value.max and value.num > 1000


def test_scalars_come_first_and_at_the_interval_and_change_nothing(tmp_path: Path) -> None:
    net = model(type="GumbelGate", eps=None).train()
    run = runner(tmp_path, net)
    hook = GateVisualizationHook(interval=3)
    seen = []
    for iteration in range(7):
        torch.manual_seed(iteration)
        seen.append(training_step(hook, run, iteration))
    run.visualizer.close()
    assert [e.step for e in events(tmp_path).Scalars("gates/density")] == [1, 3, 6]
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert not any("decide" in vars(m) for m in net.modules())
    # The same noise without the hook gives the same outputs.
    off = GateVisualizationHook(enable=False)
    net = model(type="GumbelGate", eps=None).train()
    run.model = net
    for iteration, output in enumerate(seen):
        torch.manual_seed(iteration)
        assert torch.equal(training_step(off, run, iteration), output)


@pytest.mark.parametrize("hook", [dict(interval=0), dict(enable=False)])
def test_switched_off_it_looks_at_nothing(hook: dict) -> None:
    run = SimpleNamespace(model=None, visualizer=None, iter=0)
    watching = GateVisualizationHook(**hook)
    for iteration in range(3):
        watching.before_train_iter(run, iteration)
        watching.after_train_iter(run, iteration, outputs=dict(loss_gate=1))


def test_norm_gates_that_stay_open_in_training_say_nothing(tmp_path: Path) -> None:
    run = runner(tmp_path, model().train())
    training_step(GateVisualizationHook(interval=1), run, 0)
    run.visualizer.close()
    for path in tmp_path.rglob("events.out.tfevents.*"):
        assert EventAccumulator(str(path)).Reload().Tags()["scalars"] == []


def test_other_backends_get_the_same_scalars(tmp_path: Path) -> None:
    run = runner(tmp_path, model(train_gates=True).train(), "LocalVisBackend")
    training_step(GateVisualizationHook(interval=1, scalar_layers=["stage3/*"]), run, 0)
    (path,) = tmp_path.rglob("scalars.json")
    (line,) = (json.loads(text) for text in path.read_text().splitlines())
    per_layer = [tag for tag in line if tag.startswith("gates.")]
    assert per_layer and all(tag.startswith("gates.stage3/") for tag in per_layer)
    assert 0 < line["gates/density"] < 0.9 and line["step"] == 1
