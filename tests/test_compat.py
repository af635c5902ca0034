"""skippose.compat, each case in an interpreter of its own: what it is about is import state."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

mmpose = pytest.importorskip("mmpose")
VERSION = tuple(int(part) for part in mmpose.__version__.split(".")[:2])
edpose = pytest.mark.skipif(VERSION < (1, 2), reason="mmpose imports mmcv.ops since 1.2")
rtmo = pytest.mark.skipif(VERSION < (1, 3), reason="mmpose imports mmdet.utils since 1.3")

COMPAT = Path(__file__).parents[1] / "skippose" / "compat.py"
# The module alone, without the package around it, which would apply it on import.
LOAD = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("compat", {str(COMPAT)!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
"""
# Takes mmdet and the compiled operators away, where the environment has them.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mmdet" or name in ("mmcv._ext", "mmcv.ops"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def run(*parts: str, path: Path | None = None) -> str:
    """Runs the parts as one script; returns what it prints."""
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), env.get("PYTHONPATH", "")])
    code = "\n".join(textwrap.dedent(part) for part in parts)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_import_and_the_stand_ins_are_gone_afterwards():
    run(
        BLOCK,
        LOAD,
        """
        compat.apply()
        compat.apply()
        import mmpose.models
        left = [name for name in sys.modules if name == "mmcv.ops" or name.startswith("mmdet")]
        assert not left, left
        for name in ("mmdet", "mmdet.apis.det_inferencer", "mmcv.ops"):
            try:
                __import__(name)
            except ImportError:
                continue
            raise AssertionError(f"{name} can be imported")
        # Names that mmpose asks for in try/except are still reported missing.
        from mmpose.models.heads.hybrid_heads import dekr_head
        assert not dekr_head.has_mmcv_full
        from mmpose.utils import adapt_mmdet_pipeline
        import mmpose.apis.inferencers.base_mmpose_inferencer as inferencer
        assert not getattr(inferencer, "has_mmdet", False)  # mmpose 1.1 keeps it elsewhere
        """,
    )


@edpose
def test_a_stand_in_says_what_to_install_when_it_is_called():
    run(
        BLOCK,
        LOAD,
        """
        compat.apply()
        calls = []
        try:
            from mmpose.models.heads.hybrid_heads import rtmo_head
        except ImportError:  # before 1.3
            rtmo_head = None
        if hasattr(rtmo_head, "reduce_mean"):
            calls.append((rtmo_head.reduce_mean, "mmdet.utils.reduce_mean", "install mmdet"))
        from mmpose.models.heads.transformer_heads import edpose_head
        op = edpose_head.MultiScaleDeformableAttention
        assert not isinstance(3, op)
        calls.append((op, "mmcv.ops.MultiScaleDeformableAttention", "compiled operators"))
        for function, name, hint in calls:
            try:
                function(embed_dims=8)
            except RuntimeError as error:
                assert name in str(error) and hint in str(error), error
            else:
                raise AssertionError(f"{name} did not raise")
        """,
    )


@rtmo
def test_real_packages_are_used_where_they_are_installed(tmp_path):
    """A package of that name on the path counts as real, and nothing of ours takes its place."""
    utils = tmp_path / "mmdet" / "utils"
    utils.mkdir(parents=True)
    (tmp_path / "mmdet" / "__init__.py").write_text("")
    (utils / "__init__.py").write_text(
        "ConfigType = dict\ndef reduce_mean(x):\n    return 'real'\n"
    )
    run(
        BLOCK.replace('name.split(".")[0] == "mmdet" or', ""),
        LOAD,
        f"""
        compat.apply()
        import mmdet.utils
        assert mmdet.utils.__file__.startswith({str(tmp_path)!r}), mmdet.utils.__file__
        from mmpose.models.heads.hybrid_heads import rtmo_head
        assert rtmo_head.reduce_mean is mmdet.utils.reduce_mean
        assert rtmo_head.reduce_mean(1) == "real"
        """,
        path=tmp_path,
    )


@edpose
def test_real_operators_are_used_where_they_are_compiled():
    run(
        LOAD,
        """
        from types import ModuleType
        ops = ModuleType("mmcv.ops")  # as an mmcv with compiled operators has it
        class MultiScaleDeformableAttention: ...
        class DeformConv2d: ...
        ops.MultiScaleDeformableAttention, ops.DeformConv2d = (
            MultiScaleDeformableAttention, DeformConv2d)
        sys.modules["mmcv.ops"] = ops
        compat.apply()
        assert sys.modules["mmcv.ops"] is ops
        from mmpose.models.heads.transformer_heads import edpose_head
        assert edpose_head.MultiScaleDeformableAttention is MultiScaleDeformableAttention
        """,
    )


def test_a_failed_import_leaves_no_stand_in_behind(tmp_path):
    """An mmpose that fails for another reason: its error comes through, the state is restored."""
    models = tmp_path / "mmpose" / "models"
    models.mkdir(parents=True)
    (tmp_path / "mmpose" / "__init__.py").write_text("")
    (models / "__init__.py").write_text("from mmdet.utils import reduce_mean, no_such_name\n")
    run(
        BLOCK,
        LOAD,
        """
        for attempt in range(2):
            try:
                compat.apply()
            except ImportError as error:
                assert "no_such_name" in str(error), error
            else:
                raise AssertionError("the import did not fail")
            left = [n for n in sys.modules if n == "mmcv.ops" or n.startswith("mmdet")]
            assert not left, left
        """,
        path=tmp_path,
    )


def test_threads_may_apply_at_the_same_time():
    run(
        BLOCK,
        LOAD,
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(compat.apply) for _ in range(4)]:
                future.result()
        assert "mmpose.models" in sys.modules and "mmdet" not in sys.modules
        """,
    )


def test_mmpose_draws_key_points():
    """What `--show-dir` and `--badcase` need; mmpose 1.3.2 cannot with numpy 2.4."""
    run(
        LOAD,
        """
        compat.apply()
        import numpy as np
        from mmpose.visualization import PoseLocalVisualizer
        visualizer = PoseLocalVisualizer(backend="opencv")
        visualizer.set_image(np.zeros((20, 20, 3), np.uint8))
        visualizer.draw_circles(
            np.array([10, 10]), radius=np.array([3]), face_colors=(255, 0, 0), alpha=1.0)
        assert visualizer.get_image()[10, 10, 0] == 255
        """,
    )
