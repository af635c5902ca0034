"""A training that was killed goes on as if it had not been."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.utils import digit_version
from mmpose.registry import HOOKS
from torch.utils.data import BatchSampler, ConcatDataset, Dataset, Sampler

from skippose.datasets import ClipDataset
from skippose.datasets.clip_dataset import EpochIndex

_KEY = "random_state"  # of the checkpoint


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes resuming exact: same weights, killed and resumed or not.

    Exact to the bit where the network's arithmetic is reproducible, as on a CPU with one number of
    threads. Three things that mmengine leaves open are settled:

    - What the *data set* draws. Draws of a `ClipDataset` are seeded by the runner's seed, the epoch
      and the index, whatever the number of workers. In loops by iteration with an
      `InfiniteSampler` the pass over the data set stands for the epoch.
    - What the *network* draws (Gumbel noise, dropout). The states of all generators (Python, numpy,
      torch on the CPU and on all CUDA devices; of every process) are in the checkpoint and come
      back when training resumes, not when weights are only loaded. Between two epochs and during
      validation nothing is drawn at training's expense: its first iteration afterwards finds the
      generators as its last one before left them.
    - The *order*. Without ``randomness.seed`` every start draws another seed, but mmengine resumes
      the seed after it has built the sampler; the sampler's goes into the checkpoint too. Loops by
      iteration go past the indices already seen, which mmengine does only since 0.10.3.

    Not exact, and said in a warning when training resumes: a checkpoint that was saved within an
    epoch of a loop by epoch (mmengine starts the epoch anew) or without this hook; another number
    of processes or GPUs; a loop by iteration whose sampler is not `InfiniteSampler`, whose batch
    sampler is not torch's (before mmengine 0.10.3) or that was told not to go past the data already
    seen (`fast_forward_on_resume`); other data sets than `ClipDataset` and, in loops by epoch,
    concatenations of it. Also not: gradients that were being accumulated when the checkpoint was
    saved, which are in no checkpoint of mmengine's.
    """

    # First, so that draws of other hooks in `before_train_iter` follow the states too.
    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._datasets: list[ClipDataset] = []
        self._training = False
        # Every process's states, which the next training iteration begins with.
        self._held: list[dict] | None = None
        self._loaded: tuple[int | None, dict | None] = (None, None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps what a checkpoint holds; whether training resumes is known only later."""
        self._loaded = checkpoint.get("meta", {}).get("iter"), checkpoint.get(_KEY)

    def before_train(self, runner: Runner) -> None:
        """Restores, where training resumes; seeds the data sets' draws."""
        loop = runner.train_loop
        limits = []
        self._held = None
        if runner.iter > 0 and self._loaded[0] == runner.iter:
            limits += self._resume(runner, self._loaded[1])
        self._loaded = None, None
        by_iter = isinstance(loop, IterBasedTrainLoop)
        datasets = _clip_datasets(loop.dataloader.dataset, nested=not by_iter)
        if by_iter and not isinstance(_sampler(loop), InfiniteSampler):
            datasets = None
            limits.append(f"the sampler is {type(_sampler(loop)).__name__}, not InfiniteSampler")
        elif datasets is None:
            name = type(loop.dataloader.dataset).__name__
            limits.append(f"the draws of {name} are not seeded by item, as ClipDataset's are")
        self._datasets = datasets or []
        for number, dataset in enumerate(self._datasets):
            dataset.seed_draws(runner.seed, number)
        if self._datasets:
            # Workers that live from before would not know of the seed.
            loop.dataloader._iterator = None
        if by_iter:
            limits += _number_passes(loop)
        if runner.iter > 0:
            for limit in limits:
                runner.logger.warning(f"Training resumes, but not exactly: {limit}")
        self._training = True

    def before_train_epoch(self, runner: Runner) -> None:
        """Tells the data sets, and with them all workers, the epoch."""
        for dataset in self._datasets:
            dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Gives the iteration the generators of the one before it."""
        if self._held is not None:
            _restore(self._held[get_rank()])
            self._held = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Holds the states for a checkpoint that is due: only the first process saves it."""
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not hook.by_epoch:
                due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
                if due or (hook.save_last and hook.is_last_train_iter(runner)):
                    self._hold()

    def after_train_epoch(self, runner: Runner) -> None:
        """Holds the states until the next epoch, which may begin in another process's life."""
        self._hold()

    def before_val(self, runner: Runner) -> None:
        """Holds the states, so that a validation does not change what follows it."""
        if self._training:
            self._hold()

    def after_train(self, runner: Runner) -> None:
        """Training is over."""
        self._training = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the states and the sampler's seed."""
        if self._held is None and get_world_size() == 1:
            self._hold()
        if self._held is not None:
            seed = getattr(_sampler(runner.train_loop), "seed", None)
            checkpoint[_KEY] = dict(processes=self._held, sampler_seed=seed)

    def _hold(self) -> None:
        if self._held is None:
            self._held = all_gather_object(_capture())

    def _resume(self, runner: Runner, saved: dict | None) -> list[str]:
        """Restores what a checkpoint holds; returns what stands against exactness."""
        loop = runner.train_loop
        limits = []
        if isinstance(loop, EpochBasedTrainLoop):
            done = runner.iter % len(loop.dataloader)
            if done:
                limits.append(
                    f"the checkpoint was saved after {done} of {len(loop.dataloader)} iterations "
                    "of an epoch, which begins anew"
                )
        if saved is None:
            return [*limits, "the checkpoint holds no states of random generators"]
        sampler = _sampler(loop)
        if saved["sampler_seed"] is not None and hasattr(sampler, "seed"):
            sampler.seed = saved["sampler_seed"]
        processes = saved["processes"]
        if len(processes) != get_world_size():
            return [
                *limits,
                f"it was saved by {len(processes)} processes, now there are {get_world_size()}",
            ]
        found, now = len(processes[get_rank()]["cuda"]), len(_capture()["cuda"])
        if found != now:
            limits.append(f"it was saved with {found} GPUs, now there are {now}")
        self._held = processes
        return limits


def _capture() -> dict:
    """The states of this process's generators, of types that any loader of checkpoints allows."""
    kind, keys, *rest = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(kind, np.asarray(keys).tolist(), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def _restore(state: dict) -> None:
    """Sets this process's generators. A checkpoint's tensors may have been loaded to a GPU."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), device)


def _sampler(loop: Any) -> Sampler:
    """What chooses the indices; a loader with a batch sampler of its own has it in there."""
    loader = loop.dataloader
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _clip_datasets(dataset: Dataset, nested: bool) -> list[ClipDataset] | None:
    """The data sets of clips in a data set; None if there are others.

    Args:
        dataset: A loader's data set.
        nested: Whether to look into concatenations, which change the indices.
    """
    dataset = vars(dataset).get("_dataset", dataset)  # mmengine's, for num_batch_per_epoch
    if isinstance(dataset, ClipDataset):
        return [dataset]
    if not (nested and isinstance(dataset, ConcatDataset)):
        return None
    found = [_clip_datasets(inner, nested) for inner in dataset.datasets]
    return None if None in found else [clips for inner in found for clips in inner or ()]


def _number_passes(loop: IterBasedTrainLoop) -> list[str]:
    """Has an infinite sampler say to what pass over the data set an index belongs.

    It begins where the loop does, also with a mmengine whose loop does not see to it.

    Returns:
        What stands against exactness.
    """
    sampler, loader = _sampler(loop), loop.dataloader
    if not isinstance(sampler, InfiniteSampler):
        return []

    def numbered() -> Iterator[EpochIndex]:
        for position, index in enumerate(type(sampler)._infinite_indices(sampler)):
            yield EpochIndex(index, position // sampler.size)

    # On this object, because the loader's sampler cannot be exchanged. All its ways to an index,
    # skipping those of a resumed run among them, go through this generator.
    sampler._infinite_indices = numbered
    sampler.indices = sampler._indices_of_rank()
    limits = []
    if digit_version(mmengine.__version__) < digit_version("0.10.3"):
        if type(loader.batch_sampler) is BatchSampler:
            seen = loop.iter * loader.batch_sampler.batch_size
            sampler.indices = islice(sampler.indices, seen, None)
        else:
            name = type(loader.batch_sampler).__name__
            limits.append(f"data already seen come again: the batch sampler {name} cannot be moved")
    elif getattr(loop, "fast_forward_on_resume", False):
        limits.append("data already seen come again: fast_forward_on_resume is set")
    if getattr(loop.dataloader_iterator, "_iterator", None) is not None:
        # mmengine 0.10 starts the workers when it builds the loop: before anybody could seed.
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
    return limits
