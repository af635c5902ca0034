"""Imports go downward only, and the lower floors need torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skippose"

# A module or subpackage of skippose -> its floor. One that is not listed fails the test: whoever
# adds it decides where it stands. `compat` is a leaf beside the package's __init__; `__main__` only
# starts other people's scripts.
FLOORS = {
    "ops": 0,
    "gates": 1,
    "layers": 2,
    "frames_pass": 3,
    "context": 3,
    "convert": 3,
    "report": 3,
    "files": 3,
    "one_at_a_time": 3,
    "plan": 4,
    "backends": 5,
    "stream": 6,
    "export": 6,
    "slots": 6,
    "checkpoints": 7,
    "models": 7,
    "datasets": 8,
    "calibration": 9,
    "engine": 9,
    "evaluation": 9,
    "video": 9,
    "visualization": 9,
    "compat": None,
    "__main__": None,
}
TORCH_ALONE = {"torch"} | sys.stdlib_module_names
ABOVE = {"tools", "configs", "benchmarks", "tests"}


def modules() -> list[Path]:
    found = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]
    assert found, f"no modules in {PACKAGE}"
    return found


def imports(path: Path, root: Path = ROOT) -> list[tuple[int, str]]:
    """All imports of a file, also those within functions, as (line, absolute dotted name)."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            if module == "skippose":  # `from skippose import ops` names a module of the package
                names += [(node.lineno, f"skippose.{alias.name}") for alias in node.names]
            else:
                names.append((node.lineno, module))
    return names


def part(path: Path, root: Path = ROOT) -> str:
    """The first name below the package: `skippose/ops/clip.py` -> `ops`."""
    return path.relative_to(root / "skippose").with_suffix("").parts[0]


def violations(path: Path, root: Path = ROOT) -> list[str]:
    floor = FLOORS[part(path, root)]
    wrong = []
    for line, name in imports(path, root):
        where = f"{path.relative_to(root)}:{line} imports {name}"
        top, *rest = name.split(".")
        if top in ABOVE:
            wrong.append(f"{where}, which stands above the package")
        elif top == "skippose":
            target = rest[0] if rest else ""
            if target not in FLOORS:
                wrong.append(f"{where}, which is on no floor (import the module that defines it)")
            elif target == part(path, root):
                continue
            elif FLOORS[target] is None or floor is None or FLOORS[target] > floor:
                wrong.append(f"{where}: floor {FLOORS[target]} from floor {floor}")
        elif floor is not None and floor <= 6 and top not in TORCH_ALONE:
            wrong.append(f"{where}, but floors 0 to 6 need torch alone")
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    assert part(path) in FLOORS, f"{path.name}: give it a floor in {Path(__file__).name}"
    assert not violations(path), "\n".join(violations(path))


@pytest.mark.parametrize(
    ("where", "line", "wrong"),
    [
        ("ops/clip.py", "from ..gates import norm", True),
        ("ops/clip.py", "from skippose import gates", True),
        ("ops/clip.py", "import numpy", True),
        ("ops/clip.py", "def f():\n    import mmpose", True),
        ("layers/conv.py", "from ..context import clips", True),
        ("models/backbones/hrnet.py", "from ...engine.hooks import x", True),
        ("models/backbones/hrnet.py", "from tools import train", True),
        ("models/backbones/hrnet.py", "from skippose import convert_everything", True),
        ("gates/norm.py", "from ..compat import apply", True),
        ("ops/clip.py", "from .masks import pool\nimport math\nimport torch.nn.functional", False),
        ("layers/conv.py", "from ..gates import norm\nfrom skippose.ops.clip import x", False),
        ("backends/base.py", "from ..convert import convert\nfrom .eager import x", False),
        ("plan/plan.py", "from ..backends import base", True),
        ("models/backbones/hrnet.py", "import mmpose\nfrom ...layers import SkipConv2d", False),
    ],
)
def test_the_check_sees(tmp_path, where, line, wrong):
    """The check itself, on imports that it must and must not object to."""
    path = tmp_path / "skippose" / where
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert bool(violations(path, tmp_path)) == wrong, violations(path, tmp_path)


CIRCLES = {
    frozenset({"layers.active", "layers.dense", "layers.skip_conv"}),
    frozenset({"backends.torch_blocks.conv", "backends.torch_blocks.gates"}),
    frozenset({"video.painter", "video.pose"}),
}
"""Of modules that import each other, for types or within functions. There shall be no others."""


def circles(package: Path) -> set[frozenset[str]]:
    """Groups of modules, without the package's name, of which each reaches each other one."""
    modules = {
        ".".join(p.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): p
        for p in package.rglob("*.py")
    }
    reached: dict[str, set[str]] = {}
    for name, path in modules.items():
        reached[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package.name):
                base = node.module.partition(".")[2]
                for alias in node.names:
                    inner = f"{base}.{alias.name}" if base else alias.name
                    reached[name].add(inner if inner in modules else base)
        reached[name] &= modules.keys() - {name}
    for through in modules:  # Warshall's closure
        for targets in reached.values():
            if through in targets:
                targets |= reached[through]
    return {
        frozenset({name} | {other for other in targets if name in reached[other]})
        for name, targets in reached.items()
        if name in targets
    }


def test_modules_do_not_import_each_other():
    found = circles(PACKAGE)
    assert found <= CIRCLES, [sorted(group) for group in found - CIRCLES]
    assert found == CIRCLES, f"gone, take them off the list: {CIRCLES - found}"


def test_a_circle_is_seen(tmp_path):
    package = tmp_path / "skippose"
    (package / "plan").mkdir(parents=True)
    lines = {
        "a": "def f():\n    from skippose.plan import b",
        "b": "from skippose.plan.c import x",
        "c": "if TYPE_CHECKING:\n    from skippose.plan.a import y",
        "d": "from skippose.plan import a",
    }
    for name, line in lines.items():
        (package / "plan" / f"{name}.py").write_text(line)
    assert circles(package) == {frozenset({"plan.a", "plan.b", "plan.c"})}


def test_import_with_torch_alone():
    """`import skippose` works where neither mmpose nor numpy-based packages are installed."""
    code = """
import sys
BLOCKED = {"mmcv", "mmdet", "mmengine", "mmpose", "cv2", "scipy", "matplotlib", "rich",
           "xtcocotools", "torchvision", "tensorboard"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in BLOCKED:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import skippose
missing = [n for n in ("convert", "clips", "Stream", "InputNormGate") if not hasattr(skippose, n)]
assert not missing, f"skippose lacks {missing}"
for statement in ("skippose.VideoPose", "from skippose import VideoPose"):
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        assert error.name == "mmpose" and "VideoPose needs mmpose" in str(error), error
    else:
        raise AssertionError(statement)
assert not hasattr(skippose, "nothing")
loaded = BLOCKED & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
import torch
net = skippose.convert(torch.nn.Conv2d(3, 2, 1), skippose.InputNormGate(0.1))
with skippose.clips(2):
    net(torch.rand(2, 3, 4, 4))
assert "torch._dynamo" not in sys.modules, "the compiler takes longer to import than all else"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
