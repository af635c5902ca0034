"""Where a checkpoint lies: a file here, an address, or a name that mmengine knows an address of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from skippose.files import plain_name

_NAMES: dict[str, Callable[[], dict[str, str]]] = {
    "mmcls": get_mmcls_models,
    "modelzoo": get_torchvision_models,
    "open-mmlab": get_external_models,
    "openmmlab": get_external_models,
    "torchvision": get_torchvision_models,
}


def local_file(name: str | Path) -> Path:
    """The file of a checkpoint, downloaded where it has to be.

    Raises:
        FileNotFoundError: there is no such file, or mmengine knows no such name.
        URLError: it was not downloaded.
    """
    scheme, separator, rest = str(name).partition("://")
    if not separator:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no such checkpoint")
        return path
    if scheme in ("http", "https"):
        return _downloaded(str(name))
    addresses = _NAMES[scheme]() if scheme in _NAMES else {}
    if scheme in ("open-mmlab", "openmmlab"):
        rest = get_deprecated_model_names().get(rest, rest)
    address = addresses.get(rest, "")
    if not address.startswith(("http://", "https://")):
        raise FileNotFoundError(
            f"{name}: no checkpoint that can be found here; download it and give the file"
        )
    return _downloaded(address)


def _downloaded(address: str) -> Path:
    """The file of an address, in the folder where torch and mmengine keep such files."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / plain_name(PurePosixPath(urlparse(address).path).name, address)
    rank, world = get_dist_info()
    for first in (True, False):  # one process downloads, the others of this machine find it there
        if (rank == 0) == first and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"Downloading: {address} to {path}", file=sys.stderr)
            torch.hub.download_url_to_file(address, str(path), progress=sys.stderr.isatty())
        if first and world > 1:
            barrier()
    return path
