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
# Those on synthetic clips, with a small network; all others are HRNet-W32 on JHMDB.
DEMO = [p for p in CONFIGS if p.parent.name == "demo"]
# The configs of the first split: all different models; the other splits are their twins.
FIRST_SPLIT = [p for p in CONFIGS if p not in DEMO and not re.search(r"sub[23]", p.name)]
OTHER_SPLITS = [p for p in CONFIGS if p not in FIRST_SPLIT + DEMO]


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


@pytest.mark.parametrize("path", CONFIGS, ids=name)
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
    assert roots == {"data/synthetic" if path in DEMO else "data/jhmdb"}
    variable = "SKIPPOSE_SYNTHETIC" if path in DEMO else "SKIPPOSE_DATA"
    monkeypatch.setenv(variable, "/elsewhere")
    roots = {wrapper["dataset"]["data_root"] for wrapper in datasets(Config.fromfile(path))}
    assert roots == {"/elsewhere"}


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_splits_crops_and_codec_agree(path):
    config = Config.fromfile(path)
    train, val, test = datasets(config)
    split = int((re.search(r"sub(\d)", path.name) or [0, 1])[1])
    assert train["dataset"]["ann_file"] == f"annotations/Sub{split}_train.json"
    for wrapper in (val, test):
        assert wrapper["dataset"]["ann_file"] == f"annotations/Sub{split}_test.json"
        assert wrapper["test_mode"]
    assert len({wrapper["crop"] for wrapper in (train, val, test)}) == 1
    targets = next(t for t in train["pipeline"] if t["type"] == "GenerateTarget")
    assert config.model.head.decoder == targets["encoder"] == config.codec


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


@pytest.mark.parametrize("path", FIRST_SPLIT + DEMO, ids=name)
def test_model_is_built_and_takes_a_dense_checkpoint(path):
    """Its keys are those of mmpose's HRNet (W32 on JHMDB) with 15 joints, and the gates'."""
    model = registry.MODELS.build(Config.fromfile(path).model)
    dense = Config.fromfile(path if path in DEMO else HEADLINE).model.to_dict()
    dense["type"] = "TopdownPoseEstimator"
    dense["data_preprocessor"]["type"] = "PoseDataPreprocessor"
    dense["backbone"] = {key: dense["backbone"][key] for key in ("in_channels", "extra")} | {
        "type": "HRNet"
    }
    checkpoint = registry.MODELS.build(dense).state_dict()
    found = model.load_state_dict(checkpoint, strict=False)
    assert not found.unexpected_keys
    assert all("gate" in key.split(".") for key in found.missing_keys), found.missing_keys

    gates = [m.gate for m in model.modules() if isinstance(m, skippose.SkipConv2d)]
    if path.parent.name == "dense":
        assert all(gate is None for gate in gates)
    else:
        assert len(gates) == 293 or path in DEMO and None not in gates
        assert {type(gate).__name__ for gate in gates} == {
            Config.fromfile(path).model.backbone.gate.type
        }
