"""Every config under configs/: it parses, its names exist, its model is built."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmpose")

import mmengine
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpose import registry

import skippose

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts)
HEADLINE = ROOT / "configs" / "skip_hrnet_w32.py"
# Those on synthetic clips, with a small network.
DEMO = [p for p in CONFIGS if p.parent.name == "demo"]
# A small network on JHMDB, trained on single frames.
SMALL = [p for p in CONFIGS if p.parent.name == "small"]
# Those that differ from another one in thresholds alone: one of them is quick enough.
THRESHOLDS = [p for p in SMALL if re.search(r"mmac|calibrated|learned-\d", p.stem)][1:]
# HRNet-W32 on PoseTrack18, which has 17 joints and no splits.
POSETRACK = [p for p in CONFIGS if p.parent.name == "posetrack18"]
# HRNet-W32 from random weights: on synthetic clips, then on JHMDB's first split.
SCRATCH = [p for p in CONFIGS if p.parent.name == "scratch"]
# HRNet-W32 on JHMDB. The configs of the first split: all different models; the other splits are
# their twins.
JHMDB = [p for p in CONFIGS if p not in DEMO + SMALL + POSETRACK + SCRATCH]
FIRST_SPLIT = [p for p in JHMDB if not re.search(r"sub[23]", p.name)]
OTHER_SPLITS = [p for p in JHMDB if p not in FIRST_SPLIT]


def data_of(path: Path) -> tuple[str, str]:
    """The default data root of a config and the variable that moves it."""
    if path.name == "pretrain_hrnet_w32.py":
        return "data/synthetic", "SKIPPOSE_SYNTHETIC"
    return {
        "demo": ("data/synthetic", "SKIPPOSE_SYNTHETIC"),
        "posetrack18": ("data/posetrack18", "SKIPPOSE_POSETRACK18"),
    }.get(path.parent.name, ("data/jhmdb", "SKIPPOSE_DATA"))


def quick(paths: list[Path]) -> list[Any]:
    """The same as parameters, of which those that differ in thresholds alone are slow."""
    return [pytest.param(p, marks=pytest.mark.slow if p in THRESHOLDS else []) for p in paths]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope("mmpose"):
        yield


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("SKIPPOSE_DATA", raising=False)
    monkeypatch.delenv("SKIPPOSE_SYNTHETIC", raising=False)
    monkeypatch.delenv("SKIPPOSE_POSETRACK18", raising=False)


def walk(node: Any) -> Iterator[dict]:
    """All dicts within a config."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from walk(value)


def datasets(config: Config) -> list[dict]:
    """The data sets of the three loaders, each the wrapper and what it wraps."""
    loaders = [config[f"{phase}_dataloader"] for phase in ("train", "val", "test")]
    return [loader["dataset"] for loader in loaders]


def difference(a: Any, b: Any, at: str = "") -> dict[str, tuple]:
    """The leaves in which two configs differ: dotted key -> (in a, in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        found: dict[str, tuple] = {}
        for key in a.keys() | b.keys():
            found |= difference(a.get(key), b.get(key), f"{at}.{key}".lstrip("."))
        return found
    return {} if a == b else {at: (a, b)}


def test_there_are_configs():
    assert HEADLINE in CONFIGS
    assert len(FIRST_SPLIT) >= 5 and len(OTHER_SPLITS) == 2 * len(FIRST_SPLIT)


@pytest.mark.parametrize("path", quick(CONFIGS), ids=name)
def test_every_name_is_registered(path):
    both = [*vars(registry).values(), *vars(mmengine.registry).values()]
    registries = [r for r in both if isinstance(r, mmengine.registry.Registry)]
    config = Config.fromfile(path)
    for node in walk(config.to_dict()):
        kind = node.get("type")
        if not isinstance(kind, str):
            continue
        known = any(r.get(kind) is not None for r in registries) or hasattr(skippose, kind)
        assert known, f"{kind} is not registered"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_data_root_comes_from_the_environment(path, monkeypatch):
    roots = {wrapper["dataset"]["data_root"] for wrapper in datasets(Config.fromfile(path))}
    root, variable = data_of(path)
    assert roots == {root}
    monkeypatch.setenv(variable, "/elsewhere")
    roots = {wrapper["dataset"]["data_root"] for wrapper in datasets(Config.fromfile(path))}
    assert roots == {"/elsewhere"}


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_splits_crops_and_codec_agree(path):
    config = Config.fromfile(path)
    train, val, test = datasets(config)
    split = int((re.search(r"sub(\d)", path.name) or [0, 1])[1])
    files = [f"annotations/Sub{split}_{part}.json" for part in ("train", "test", "test")]
    if path in POSETRACK:
        files = [f"annotations/posetrack18_{part}.json" for part in ("train", "val", "val")]
    assert [wrapper["dataset"]["ann_file"] for wrapper in (train, val, test)] == files
    assert val["test_mode"] and test["test_mode"] and val["crop"] == test["crop"]
    # Single frames have no window that could stay put.
    assert train["crop"] == val["crop"] or (train["clip_len"], train["crop"]) == (1, "frame")
    targets = next(t for t in train["pipeline"] if t["type"] == "GenerateTarget")
    assert config.model.head.decoder == targets["encoder"] == config.codec
    for wrapper in (train, val, test):
        crop = next(t for t in wrapper["pipeline"] if t["type"] == "TopdownAffine")
        assert tuple(crop["input_size"]) == tuple(config.codec.input_size)


@pytest.mark.parametrize("path", OTHER_SPLITS, ids=name)
def test_other_splits_differ_in_the_annotations_alone(path):
    first = path.with_name(re.sub(r"_sub[23](?=\.py)|(?<=sub)[23]", "", path.name))
    if not first.exists():
        first = path.with_name(re.sub(r"(?<=sub)[23]", "1", path.name))
    found = difference(Config.fromfile(first).to_dict(), Config.fromfile(path).to_dict())
    assert len(found) == 3 and all(key.endswith("dataset.dataset.ann_file") for key in found), found


@pytest.mark.parametrize("crop", ["window", "frame"])
def test_dense_twins_differ_in_gates_and_crop_alone(crop):
    (path,) = (ROOT / "configs" / "dense").glob(f"*-{crop}_*sub1*.py")
    found = difference(Config.fromfile(HEADLINE).to_dict(), Config.fromfile(path).to_dict())
    crops = {f"{phase}_dataloader.dataset.crop" for phase in ("train", "val", "test")}
    assert found.keys() == {"model.backbone.gate"} | (crops if crop == "frame" else set()), found


@pytest.mark.parametrize("size", ["256x192", "384x288"])
@pytest.mark.parametrize("gates", ["skip-hrnet-w32-gumbel", "hrnet-w32-window"])
def test_posetrack_configs_differ_in_gates_alone(gates, size):
    norm, other = (
        ROOT / "configs" / "posetrack18" / f"td-hm_{kind}_b4x8-20e_posetrack18-{size}.py"
        for kind in ("skip-hrnet-w32-norm", gates)
    )
    found = difference(Config.fromfile(norm).to_dict(), Config.fromfile(other).to_dict())
    assert found and all(
        re.match(r"model\.(backbone\.(gate|reference)|gate_loss)", key) for key in found
    ), found


def test_posetrack_configs_start_from_mmposes_checkpoint_of_their_size():
    for path in POSETRACK:
        assert re.search(r"\d+x\d+(?=\.py)", path.name)[0] in Config.fromfile(path).load_from


@pytest.mark.parametrize("path", quick(FIRST_SPLIT + DEMO + SMALL + POSETRACK), ids=name)
def test_model_is_built_and_takes_a_dense_checkpoint(path):
    """Its keys are those of mmpose's HRNet (W32 but for the small ones), and what gates add."""
    model = registry.MODELS.build(Config.fromfile(path).model)
    small = path in DEMO + SMALL
    dense = Config.fromfile(path if small else HEADLINE).model.to_dict()
    if path in POSETRACK:
        dense["head"]["out_channels"] = 17
    for ours in ("overrides", "share", "gate_loss", "consistency"):
        dense.pop(ours, None)
    dense["type"] = "TopdownPoseEstimator"
    dense["data_preprocessor"]["type"] = "PoseDataPreprocessor"
    dense["backbone"] = {key: dense["backbone"][key] for key in ("in_channels", "extra")} | {
        "type": "HRNet"
    }
    checkpoint = registry.MODELS.build(dense).state_dict()
    found = model.load_state_dict(checkpoint, strict=False)
    assert not found.unexpected_keys
    ours = {"gate", "gate_loss"}
    assert all(ours & set(key.split(".")) for key in found.missing_keys), found.missing_keys

    gates = [m.gate for m in model.modules() if isinstance(m, skippose.SkipConv2d)]
    if Config.fromfile(path).model.backbone.gate is None:
        assert path.parent.name in ("dense", "posetrack18")
        assert all(gate is None for gate in gates)
    else:
        assert len(gates) == 293 or small and None not in gates
        # Overrides of every layer leave none to the backbone's gate.
        single = Config.fromfile(path).model.get("overrides", {})
        expected = {gate["type"] for gate in single.values()}
        if len(single) < len(gates):
            expected.add(Config.fromfile(path).model.backbone.gate.type)
        assert {type(gate).__name__ for gate in gates} == expected
