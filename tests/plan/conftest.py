"""What a network may do that no plan can repeat: each must be refused, wherever it stands."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skippose
from skippose import InputNormGate

Function = Callable[["Within", Tensor], Tensor]


class Within(nn.Module):
    """A function of a map, within a network: (S, C, H, W) to the same shape.

    Attributes:
        function: called with this module, for what it keeps.
        kept: a buffer (1, C, 1, 1).
        scale: a parameter (1, C, 1, 1).
        conv: 1x1.
        calls: the function may count them.
        past: and put things aside.
    """

    def __init__(self, channels: int, function: Function) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("kept", torch.ones(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.conv = nn.Conv2d(channels, channels, 1)
        self.calls = 0
        self.past: list[Tensor] = []

    def forward(self, y: Tensor) -> Tensor:
        """See the class."""
        return self.function(self, y)

    def means(self, y: Tensor) -> Tensor:
        """(1, C, 1, 1): an operation that plans have."""
        return y.mean((2, 3), keepdim=True)


@dataclass(frozen=True)
class Unsound:
    """What must be refused, and what the error must say."""

    function: Function
    message: str


class Patterns(dict[str, Unsound]):
    """By name; printed shortly where a fuzz fails."""

    def __repr__(self) -> str:
        return f"{len(self)} patterns"


UNSOUND = Patterns()


def unsound(message: str) -> Callable[[Function], Function]:
    """Adds a function to the table under its own name."""

    def add(function: Function) -> Function:
        UNSOUND[function.__name__] = Unsound(function, message)
        return function

    return add


# -- writes ---------------------------------------------------------------------------------------

INTO_CONSTANT = "operation aten.*, after .*: it writes what depends on the frame into a constant"
STATE = "operation aten.*, after .*: it writes into .*kept.*there before the frame.*no such state"


@unsound(INTO_CONSTANT)
def a_sum_in_a_constant(m, y):
    total = torch.zeros(1, y.shape[1], 1, 1, dtype=y.dtype)
    total += m.means(y)
    return y + total


@unsound(INTO_CONSTANT)
def a_product_in_a_constant(m, y):
    total = torch.full((1, y.shape[1], 1, 1), 2.0, dtype=y.dtype)
    total *= m.means(y)
    return y * total


@unsound(INTO_CONSTANT)
def a_sum_in_a_slice_of_a_constant(m, y):
    total = torch.zeros(1, 2 * y.shape[1], 1, 1, dtype=y.dtype)
    total[:, : y.shape[1]] += m.means(y)
    return y + total[:, : y.shape[1]]


@unsound(INTO_CONSTANT)
def a_copy_into_a_constant(m, y):
    return torch.empty(y.shape, dtype=y.dtype).copy_(y)


@unsound(INTO_CONSTANT)
def a_copy_into_a_slice(m, y):
    out = torch.zeros(y.shape, dtype=y.dtype)
    out[:] = y
    return out


@unsound(INTO_CONSTANT)
def an_out_argument(m, y):
    return torch.mul(y, 2.0, out=torch.empty(y.shape, dtype=y.dtype))


@unsound(INTO_CONSTANT)
def a_list_of_constants(m, y):
    total = [torch.zeros(1, y.shape[1], 1, 1, dtype=y.dtype)]
    torch._foreach_add_(total, [m.means(y)])
    return y + total[0]


@unsound("operation aten.add.out, after .*: it writes into a tensor of the frame, as with out=")
def a_map_as_out_argument(m, y):
    return torch.add(y, 1.0, out=y)


@unsound("operation aten.relu_.*: it writes into a tensor that another one is a view of")
def a_view_that_is_written_to(m, y):
    z = y.detach()
    y.relu_()
    return y + z


@unsound("operation aten.mul_.*: it writes into a tensor that another one is a view of")
def data_that_is_written_to(m, y):
    y.data.mul_(0.5)
    return y


@unsound("Tensor.data, after .*: it is replaced")
def data_that_is_replaced(m, y):
    z = y * 1.5
    z.data = y + 1
    return z


@unsound(STATE)
def a_running_mean(m, y):
    m.kept.mul_(0.5).add_(m.means(y), alpha=0.5)
    return y * m.kept


@unsound(STATE)
def a_buffer_that_counts(m, y):
    m.kept += 1
    return y * m.kept


@unsound(STATE.replace("kept", "scale"))
def a_parameter_that_fades(m, y):
    m.scale.data.mul_(0.9)
    return y * m.scale


OUTSIDE = torch.ones(1)


@unsound(STATE.replace("kept", "a tensor of shape"))
def a_global_that_counts(m, y):
    OUTSIDE.add_(1)
    return y * OUTSIDE


@unsound(STATE)
def a_view_of_a_buffer(m, y):
    m.kept.flatten()[0].add_(1)
    return y * m.kept


@unsound("the network changes .*kept as it runs")
def a_buffer_that_numpy_writes_to(m, y):
    m.kept.numpy()[0, 0] += 1  # nothing is recorded of this
    return y


# -- random numbers -------------------------------------------------------------------------------

RANDOM = "operation aten.*, after .*: it is random"


@unsound(RANDOM)
def noise(m, y):
    return y * torch.rand(1, y.shape[1], 1, 1, dtype=y.dtype)


@unsound(RANDOM)
def noise_of_its_own_generator(m, y):
    own = torch.Generator().manual_seed(0)
    return y + torch.randn(1, 1, 1, 1, generator=own, dtype=y.dtype)


@unsound(RANDOM)
def a_dropped_constant(m, y):
    return y * F.dropout(torch.ones(1, y.shape[1], 1, 1, dtype=y.dtype), 0.5, training=True)


@unsound("operation aten.*, after .*: (it is random|it runs in training mode|plans do not have it)")
def dropout_that_stays_on(m, y):
    return F.dropout(y, 0.5, training=True)


@unsound(RANDOM)
def a_draw_in_place(m, y):
    return y * torch.empty(1, y.shape[1], 1, 1, dtype=y.dtype).uniform_()


@unsound(RANDOM)
def a_bernoulli_draw(m, y):
    return y * torch.bernoulli(torch.full((1, y.shape[1], 1, 1), 0.5, dtype=y.dtype))


@unsound(RANDOM)
def a_permutation(m, y):
    return y + torch.randperm(3)[0]


@unsound(RANDOM)
def a_layer_made_within(m, y):
    return y + nn.Linear(1, 1).weight.reshape(1, 1, 1, 1).to(y.dtype)


DIFFERS = "operation .*, after .*: (its .* differs from frame to frame|in another frame it is)"


@unsound(DIFFERS)
def a_random_number_of_python(m, y):
    return y + random.random()


@unsound(DIFFERS)
def a_random_number_of_numpy(m, y):
    return y * float(np.random.default_rng().uniform(1, 2))


@unsound(DIFFERS)
def a_clock(m, y):
    return y + time.perf_counter_ns() % 10**6 / 1e3  # small, so that float32 tells two apart


# -- second outputs -------------------------------------------------------------------------------

SECOND = "after .*: it is or reads output 1 of aten.max_pool2d_with_indices.default, which plans do"


@unsound(SECOND)
def indices_of_a_pool(m, y):
    best, where = F.max_pool2d(y, 1, return_indices=True)
    return best + where


@unsound(SECOND)
def indices_that_are_cast(m, y):
    best, where = F.max_pool2d(y, 1, return_indices=True)
    return best + where.to(y.dtype).mean((2, 3), keepdim=True)


@unsound("Tensor.numpy, after")
def indices_that_leave(m, y):
    best, where = F.max_pool2d(y, 1, return_indices=True)
    return best + int(where.numpy().sum())


@unsound("operation aten.max.dim, after .*: plans do not have it")
def the_largest_channel(m, y):
    best, where = y.max(1, keepdim=True)
    return y + best + where


# -- values that leave torch ----------------------------------------------------------------------


def leaves(name: str) -> str:
    return f"Tensor.{name}, after .*: it takes values of the frame out of torch"


@unsound(leaves("item"))
def an_item(m, y):
    return y + m.means(y).item()


@unsound(leaves("__float__"))
def a_float(m, y):
    return y * float(m.means(y))


@unsound(leaves("__bool__"))
def a_branch(m, y):
    return y if m.means(y) else -y


@unsound(leaves("__int__"))
def an_int(m, y):
    return y + int(m.means(y))


@unsound(leaves("__index__"))
def an_index(m, y):
    return y + [1.0, 2.0][m.means(y)]


@unsound(leaves("tolist"))
def a_list(m, y):
    return y + torch.tensor(y.tolist(), dtype=y.dtype).mean()


@unsound(leaves("numpy"))
def numpy(m, y):
    return y + float(y.numpy().mean())


@unsound(leaves("__array__"))
def an_array(m, y):
    return y + float(np.asarray(y).mean())


@unsound(leaves("__float__"))
def a_tensor_of_numbers(m, y):
    return y * torch.tensor([m.means(y)], dtype=y.dtype)


@unsound(
    leaves("__dlpack__") + "|operation aten.is_pinned.default, after .*: it takes a number out"
)
def another_library(m, y):
    return y + torch.from_dlpack(y).mean()


@unsound(leaves("data_ptr"))
def a_pointer(m, y):
    return y if y.data_ptr() % 2 else y + 1


@unsound(leaves("untyped_storage"))
def a_storage(m, y):
    return y + len(y.untyped_storage())


@unsound(leaves("__deepcopy__"))
def a_deep_copy(m, y):
    return y + copy.deepcopy(y)


@unsound(leaves("__reduce_ex__"))
def a_pickle(m, y):
    return y + pickle.loads(pickle.dumps(y)).mean()


@unsound(leaves("apply_"))
def a_function_of_numbers(m, y):
    return y.apply_(lambda v: v + 1)


@unsound(leaves("numpy"))
def an_error_that_is_caught(m, y):
    with contextlib.suppress(Exception):
        return y + float(y.numpy().mean())
    return y


@unsound("[A-Z][a-z]+, after .*: it fails where it is recorded: .*numpy")
def numpy_past_the_class(m, y):
    return y + float(Tensor.numpy(y).mean())


@unsound("operation aten.*, after .*: it reads the frame where nothing is recorded, as in another")
def another_thread(m, y):
    made: list[Tensor] = []

    def work() -> None:
        with contextlib.suppress(Exception):
            made.append(y.mean((2, 3), keepdim=True))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return y + made[0] if made else y


@unsound("operation aten.equal.default, after .*: it takes a number out of a tensor")
def a_comparison(m, y):
    return y if torch.equal(y, y * 1.5) else -y


@unsound(DIFFERS)
def memory_that_is_shared(m, y):
    shared = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y))
    return y + shared.mean((0, 2, 3))[None, :, None, None]


# -- what was there in another frame --------------------------------------------------------------

EARLIER = "after .*: it is or reads .* of an earlier frame"


@unsound(EARLIER)
def the_frame_before(m, y):
    before = m.past[-1] if m.past else y
    m.past.append(y)
    return y + before


@unsound(EARLIER)
def an_attribute_from_the_frame_before(m, y):
    before = getattr(m, "before", y)
    m.before = m.means(y)
    return y * before


@unsound(DIFFERS)
def calls_that_are_counted(m, y):
    m.calls += 1
    return y + m.calls


@unsound(DIFFERS)
def every_second_frame(m, y):
    m.calls += 1
    return y + 1 if m.calls % 2 else y.relu()


STREAM = skippose.Stream(
    skippose.convert(nn.Sequential(nn.Conv2d(1, 1, 1)), InputNormGate(0.0)).eval()
)


@unsound("the network uses a stream, after .*: it remembers what a plan does not")
def a_stream_within(m, y):
    return y + STREAM(torch.ones(1, 1, 2, 2)).mean().to(y.dtype)


COUNT = itertools.count()


@unsound(DIFFERS)
def a_counter_outside(m, y):
    return y + next(COUNT)


# -- other precisions -----------------------------------------------------------------------------

KIND = "a tensor of torch.* on cpu, after .*: plans have one kind, here torch.float32 on cpu"


@unsound(KIND)
def a_constant_of_another_type(m, y):
    return y * torch.ones(1, y.shape[1], 1, 1, dtype=torch.float64)


@unsound(KIND)
def autocast_within(m, y):
    with torch.autocast("cpu", torch.bfloat16):
        return m.conv(y).float()


# -- weights --------------------------------------------------------------------------------------


@unsound("operation aten.convolution.*: only 2-D, with constant weights")
def weights_of_the_frame(m, y):
    return y * F.conv2d(y, m.means(y))


@unsound("layer '.*', after .*: its weights depend on the frame")
def a_layer_with_weights_of_the_frame(m, y):
    shifted = F.conv2d(m.means(y), m.conv.weight)
    weight = m.conv._parameters.pop("weight")
    m.conv.weight = shifted
    try:
        return m.conv(y)
    finally:
        del m.conv.weight
        m.conv.weight = weight


@pytest.fixture(params=sorted(UNSOUND))
def pattern(request: pytest.FixtureRequest) -> Unsound:
    """Each of them."""
    return UNSOUND[request.param]


@pytest.fixture(scope="session")
def patterns() -> Patterns:
    """All of them, by name."""
    return UNSOUND


@pytest.fixture(scope="session")
def within() -> type[Within]:
    """The module that such a function is a part of."""
    return Within
