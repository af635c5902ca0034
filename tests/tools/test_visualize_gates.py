"""tools/visualize_gates.py on rendered clips."""

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

pytest.importorskip("mmpose")

from skippose.video import VideoSource

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "demo" / "skip_hrnet_small.py")
CHECKPOINT = str(ROOT / "configs" / "demo" / "hrnet_small_synthetic.pth")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, synthetic_clips: Path) -> ModuleType:
    monkeypatch.setenv("SKIPPOSE_SYNTHETIC", str(synthetic_clips))
    spec = importlib.util.spec_from_file_location(
        "visualize_gates", ROOT / "tools" / "visualize_gates.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_pictures_and_an_animation(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main([CONFIG, CHECKPOINT, "--list"])
    ids = capsys.readouterr().out.split()[-2:]
    layers = ["--layers", "stem/*", "head.*", "--strip", "3", "--frames", "7"]
    tool.main([CONFIG, CHECKPOINT, "--clip", ids[1], "--out", str(tmp_path), *layers])
    (folder,) = (path for path in tmp_path.iterdir() if path.name != ".made")
    assert folder.name == ids[1].replace("/", "_")
    assert {path.name for path in folder.iterdir()} == {
        "pose.png", "cost.png", "layers_over_time.png", "macs_over_time.png", "density.png",
        "stem.conv1.png", "stem.conv2.png", "head.final_layer.png", "overview.png", "gates.mp4",
    }  # fmt: skip
    strip = cv2.imread(str(folder / "cost.png"))
    assert strip.shape == (128 + 40, 3 * 128, 3) and strip.std() > 10
    names = ("pose", "cost", "stem.conv1")
    strips = [cv2.imread(str(folder / f"{name}.png")) for name in names]
    np.testing.assert_array_equal(cv2.imread(str(folder / "overview.png")), np.vstack(strips))
    with VideoSource(folder / "gates.mp4") as video:
        assert len(list(video)) == 7
        assert video.size[0] == 5 * 256, "pose, cost and three layers, enlarged"

    tool.main([CONFIG, CHECKPOINT, "--gif", "--frames", "3", "--out", str(tmp_path / "gif")])
    (gif,) = (tmp_path / "gif").rglob("*.gif")
    assert gif.stat().st_size > 1000

    # Again it makes what it has made; what somebody has put there stays.
    few = [CONFIG, CHECKPOINT, "--gif", "--frames", "2", "--out", str(tmp_path / "gif")]
    tool.main(few)
    (gif.parent / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"notes\.txt: is there already"):
        tool.main(few)
    assert gif.exists() and (gif.parent / "notes.txt").read_text() == "mine"


def test_clips_are_chosen_by_id_part_or_pattern(tool: ModuleType) -> None:
    ids = ["a/walk_1#0", "a/walk_10#0", "b/run_1#0"]
    assert tool.chosen_clips(ids, None) == [0]
    assert tool.chosen_clips(ids, ["a/walk_1#0"]) == [0], "the id itself before its parts"
    assert tool.chosen_clips(ids, ["walk"]) == [0, 1]
    assert tool.chosen_clips(ids, ["*/run*", "walk_10"]) == [2, 1]
    with pytest.raises(SystemExit, match="no clip matches 'swim'; there are 3"):
        tool.chosen_clips(ids, ["swim"])


def test_a_dense_config_and_a_video_are_refused(
    tool: ModuleType, dense_config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"found TopdownPoseEstimator .* on a ClipDataset"):
        tool.main([dense_config, CHECKPOINT])
    with pytest.raises(SystemExit, match=r"no clip matches .* for a video: tools/demo\.py"):
        tool.chosen_clips(["a/walk_1#0"], [CONFIG])  # any file
    with pytest.raises(SystemExit):
        tool.main([CONFIG, CHECKPOINT, "walk.mp4"])
    assert "for a video: tools/demo.py" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_wrong_is_said(tool: ModuleType, tmp_path: Path, capsys, monkeypatch) -> None:
    with pytest.raises(SystemExit, match="no layer matches"):
        tool.main([CONFIG, CHECKPOINT, "--layers", "nothing", "--out", str(tmp_path)])
    dense = ["--cfg-options", "model.backbone.gate=None"]
    with pytest.raises(SystemExit, match="no gated layer"):
        tool.main([CONFIG, CHECKPOINT, "--out", str(tmp_path), *dense])
    with pytest.raises(SystemExit):
        tool.main([CONFIG, CHECKPOINT, "--strip", "0"])
    assert "--strip must be at least 1" in capsys.readouterr().err
    monkeypatch.setenv("SKIPPOSE_SYNTHETIC", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="none"):
        tool.main([CONFIG, CHECKPOINT])
    assert list(tmp_path.iterdir()) == []
