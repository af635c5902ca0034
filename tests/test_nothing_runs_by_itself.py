"""No file that is loaded runs code: where the sources could let one."""

import ast
import re

import pytest

from .sources import ROOT, calls, keyword, sources

LOADER = "skippose/checkpoints/loader.py"
# Modules that unpickle -> what of them does.
UNPICKLES = {
    "pickle": {"load", "loads", "Unpickler", "_Unpickler"},
    "cloudpickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load"},
    "torch": {"load", "jit.load", "hub.load", "hub.load_state_dict_from_url", "export.load"},
    "numpy": {"load"},
    "mmengine": {"load", "fileio.load", "Config.fromstring", "config.Config.fromstring"},
}
BUILTIN = {"eval", "exec"}
# What loads checkpoints through mmengine, by the last part of its name.
THROUGH_MMENGINE = {
    "load_checkpoint", "_load_checkpoint", "_load_checkpoint_with_prefix", "load_from_http",
    "load_from_local", "load_url", "init_model", "init_detector", "DetInferencer",
    "MMPoseInferencer", "Pose2DInferencer", "load_or_resume", "_init_model_weights", "get_model",
}  # fmt: skip
GUARDS = {"checkpoints_run_no_code", "checkpoints_of"}


def harmless(name: str, call: ast.Call) -> bool:
    """Whether the arguments keep a call from running what it loads."""
    if name == "torch.load":
        return keyword(call, "weights_only") is True and not has(call, "pickle_module")
    if name == "numpy.load":
        return not has(call, "allow_pickle") or keyword(call, "allow_pickle") is False
    if name.startswith("mmengine") and name.endswith("load"):
        return keyword(call, "file_format") == "json"
    return False


def has(call: ast.Call, name: str) -> bool:
    return any(given.arg in (name, None) for given in call.keywords)


def guarded(text: str) -> set[ast.Call]:
    """The calls within ``with checkpoints_run_no_code(...)``."""
    tree = ast.parse(text)
    found: set[ast.Call] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            names = {ast.unparse(item.context_expr).partition("(")[0] for item in node.items}
            if names & GUARDS:
                inside = ast.walk(ast.Module(node.body, []))
                found |= {call for call in inside if isinstance(call, ast.Call)}
    return found


def places(call: ast.Call) -> tuple[int, int]:
    return call.lineno, call.col_offset


def loads(text: str) -> list[str]:
    """Calls that may run what they load, as ``line: name``."""
    safe = {places(call) for call in guarded(text)}
    builds = "build_runner(" in text or "Runner.from_cfg(" in text
    found = []
    for line, name, call in calls(text):
        module, _, rest = name.partition(".")
        last = name.rpartition(".")[2]
        unpickles = rest in UNPICKLES.get(module, ()) and not harmless(name, call)
        through = (
            last in THROUGH_MMENGINE
            and not name.startswith("skippose.checkpoints")
            and places(call) not in safe
        )
        # A runner loads what its config names when it is started.
        started = re.fullmatch(
            r"(runner|build_runner\(.*\)|Runner\..*\))\.(train|test|val|resume)",
            ast.unparse(call.func),
        )
        starts = builds and started is not None and places(call) not in safe
        if unpickles or through or starts or name in BUILTIN:
            found.append(f"{line}: {name}")
    return found


def test_the_sources_load_nothing_that_runs():
    found = [
        f"{path.relative_to(ROOT)}:{place}"
        for path in sources()
        if str(path.relative_to(ROOT)) != LOADER
        for place in loads(path.read_text())
    ]
    assert not found, (
        "use skippose.checkpoints.load_checkpoint, or checkpoints_run_no_code around what loads "
        f"through mmengine: {found}"
    )


def test_the_loader_is_the_only_place_where_code_may_run():
    found = loads((ROOT / LOADER).read_text())
    assert len(found) == 2, found  # as the flag allows, and restricted before torch 2.6


def test_documents_show_no_other_way():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for line in path.read_text().splitlines():
            if re.search(r"torch\.load\(|pickle\.loads?\(", line):
                assert "weights_only=True" in line, f"{path}: {line}"


def test_every_tool_that_loads_has_the_option():
    """Whoever needs more than weights can say so, by one word everywhere."""
    for path in sorted((ROOT / "tools").glob("*.py")):
        if path.name.startswith("_"):
            continue
        names = {name.rpartition(".")[2] for _, name, _ in calls(path.read_text())}
        loading = {"build_network", "VideoPose", "load_checkpoint", "build_runner"}
        if names & loading or "_calibration" in path.read_text():
            own = "add_option" in names or "allow-checkpoint-code" in path.read_text()
            shared = "parser" in names or "calibration_args" in path.read_text()
            assert own or shared, path
        if "build_network" in names:
            assert "allow_checkpoint_code" in path.read_text(), path


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import torch\ntorch.load(x)", True),
        ("import torch\ntorch.load(x, weights_only=False)", True),
        ("import torch\ntorch.load(x, weights_only=flag)", True),
        ("import torch\ntorch.load(x, weights_only=True)", False),
        ("import torch\ntorch.load(x, weights_only=True, pickle_module=p)", True),
        ("import torch\ntorch.load(x, **options)", True),
        ("from torch import load as read\nread(x)", True),
        ("import torch\ntorch.jit.load(x)", True),
        ("import pickle\npickle.loads(x)", True),
        ("from pickle import load\nload(x)", True),
        ("import numpy as np\nnp.load(x)", False),
        ("import numpy as np\nnp.load(x, allow_pickle=True)", True),
        ("import numpy as np\nnp.load(x, allow_pickle=False)", False),
        ("from mmengine.fileio import load\nload(x)", True),
        ("from mmengine.fileio import load\nload(x, file_format='json')", False),
        ("from mmengine.runner import load_checkpoint\nload_checkpoint(net, x)", True),
        ("from mmengine.runner import CheckpointLoader as L\nL.load_checkpoint(x)", True),
        ("from skippose.checkpoints import load_checkpoint\nload_checkpoint(x)", False),
        ("from mmdet.apis import DetInferencer\nDetInferencer(x)", True),
        ("with checkpoints_run_no_code():\n    DetInferencer(x)", False),
        ("with checkpoints_of(args), other():\n    runner.load_or_resume()", False),
        ("runner = build_runner(config)\nrunner.train()", True),
        ("with checkpoints_of(args):\n    build_runner(config).train()", False),
        ("net.train()", False),
        ("import yaml\nyaml.load(x, yaml.Loader)", True),
        ("import yaml\nyaml.safe_load(x)", False),
        ("exec(text)", True),
        ("import json\njson.loads(x)", False),
    ],
)
def test_the_scan_sees(text, seen):
    assert bool(loads(text)) == seen
