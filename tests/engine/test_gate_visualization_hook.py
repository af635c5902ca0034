"""Pictures of gates, read back from the vis backends' own files."""

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


def batch(video: NDArray[np.uint8], name: str = "walk/1") -> dict:
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
    return SimpleNamespace(model=net, visualizer=visualizer, iter=42)


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
    assert set(seen) == {
        f"gates/walk/1/{name}"
        for name in (
            "cost",
            "backbone.conv1",
            "backbone.stage2.0.branches.0.0.conv1",
            "backbone.stage3.0.branches.0.0.conv1",
            "backbone.stage4.0.branches.0.0.conv1",
            "head.final_layer",
        )
    }
    assert {image.shape for image in seen.values()} == {(SIZE, 3 * SIZE, 3)}


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_the_first_layers_mask_pixel_by_pixel(tmp_path: Path, bgr_to_rgb: bool) -> None:
    video = moving_patch()
    run = runner(tmp_path, model(bgr_to_rgb))
    hook = GateVisualizationHook(layers=["backbone.conv1"], num_frames=FRAMES)
    hook.after_val_iter(run, 0, batch(video), None)
    run.visualizer.close()
    strip = pictures(tmp_path)["gates/walk/1/backbone.conv1"]

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
    strip = pictures(tmp_path)["gates/walk/1/backbone.conv1"]
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
    assert len(files) == 6
    assert all(cv2.imread(str(file)).shape == (SIZE, 2 * SIZE, 3) for file in files)


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


@pytest.mark.parametrize("argument", ["num_frames", "max_length"])
def test_bad_arguments(argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        GateVisualizationHook(**{argument: 0})
