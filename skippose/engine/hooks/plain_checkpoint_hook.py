"""Checkpoints that load as weights alone, and remove no files of others when they are resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from skippose.checkpoints import from_plain, to_plain


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Saves checkpoints of Python's own types and tensors, and makes them mmengine's on loading.

    ``torch.load`` with ``weights_only=True`` reads them, in every version and without a list of
    what is allowed: mmengine's own hold arrays of numpy and objects of mmengine.

    A checkpoint also says which files mmengine shall remove when better or newer ones come
    (``best_ckpt``, ``keep_ckpt_ids``). What it says is followed for checkpoints in the run's own
    folder alone: a checkpoint of somebody else, or of another run, has none of its files removed
    and removes none.
    """

    priority = "LOWEST"  # what other hooks add to a checkpoint is made plain too

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Changes what the checkpoint holds, not what it was taken from."""
        for key, value in checkpoint.items():
            checkpoint[key] = to_plain(value)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts back what mmengine reads there; forgets files that are not this run's."""
        from_plain(checkpoint)
        hub = checkpoint.get("message_hub")
        if not isinstance(hub, dict) or not isinstance(hub.get("runtime_info"), dict):
            return
        info: dict[str, Any] = hub["runtime_info"]
        folders = _folders(runner)
        for key in [key for key in info if str(key).startswith("best_ckpt")]:
            name = _file_in(info[key], folders)
            if info[key] is not None and not (name.startswith("best_") and name.endswith(".pth")):
                runner.logger.info(f"{key} of the checkpoint is no file of this run: {info[key]!r}")
                del info[key]
        ids = info.get("keep_ckpt_ids", [])
        numbers = isinstance(ids, list) and all(type(number) is int for number in ids)
        if ids and not (numbers and _file_in(info.get("last_ckpt"), folders)):
            runner.logger.info(f"keep_ckpt_ids of the checkpoint are not of this run: {ids!r}")
            del info["keep_ckpt_ids"]
        # What was forgotten is not looked for either.
        known = {*info, *hub.get("log_scalars", {})}
        hub["resumed_keys"] = {k: v for k, v in hub.get("resumed_keys", {}).items() if k in known}


def _folders(runner: Runner) -> list[str]:
    """Where the run keeps its checkpoints."""
    name = Path(runner.work_dir).name
    elsewhere = [
        f"{str(hook.out_dir).rstrip('/')}/{name}"
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and hook.out_dir is not None
    ]
    return [str(runner.work_dir), *elsewhere]


def _file_in(path: Any, folders: list[str]) -> str:
    """The name of a file that lies right in one of some folders; empty if it does not."""
    folder, _, name = path.rpartition("/") if isinstance(path, str) else ("", "", "")
    if folder in folders:  # also those that are no paths here: s3://...
        return name
    resolved = Path(folder).resolve()
    return name if resolved in [Path(own).resolve() for own in folders] else ""
