"""Backends by name, and in the order that 'auto' tries them in."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import skippose
from skippose.backends import BACKENDS, register_backend
from skippose.backends.eager.backend import EagerBackend
from skippose.backends.registry import backend_names, tried
from skippose.plan.errors import BackendError

torch.set_num_threads(1)


def make(label: str, order: float | None = None, **more) -> type[EagerBackend]:
    return type("Other", (EagerBackend,), {"name": label, "preference": order, **more})


@pytest.fixture(autouse=True)
def others(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr("skippose.stream._said", set())
    before = dict(BACKENDS)
    yield
    BACKENDS.clear()
    BACKENDS.update(before)


def net() -> nn.Module:
    torch.manual_seed(0)
    return skippose.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), skippose.InputNormGate(0.1)).eval()


def test_those_of_the_package_are_there_in_the_order_of_auto():
    assert backend_names() == ("auto", "native", "torch", "eager")


def test_one_from_outside_stands_where_it_says():
    register_backend(make("first", 99))
    register_backend(make("between", 15.5))
    register_backend(make("by name only"))
    assert [kind.name for kind in tried()] == ["first", "native", "torch", "between", "eager"]
    assert backend_names()[-1] == "by name only"
    stream, frame = skippose.Stream(net()), torch.randn(1, 3, 8, 8)
    stream(frame)
    assert stream.backend == "first"
    stream = skippose.Stream(net(), backend="by name only")
    stream(frame)
    assert stream.backend == "by name only"


def test_auto_goes_on_where_one_cannot():
    def refuse(self, *_, **__):
        raise BackendError("not on Sundays")

    register_backend(make("absent", 99, unavailable=classmethod(lambda cls: "no such machine")))
    register_backend(make("refusing", 98, __init__=refuse))
    stream = skippose.Stream(net())
    with pytest.warns(UserWarning, match="'absent': no such machine; not 'refusing': not on Sun"):
        stream(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="'absent' is not available: no such machine"):
        skippose.Stream(net(), backend="absent")


def test_an_unknown_name_lists_all():
    register_backend(make("mine"))
    with pytest.raises(ValueError, match=r"'native', 'torch', 'eager', 'mine'\), got 'yours'"):
        skippose.Stream(net(), backend="yours")


def test_options_are_for_those_that_take_them():
    register_backend(make("optional", 5, options=frozenset({"precision"})))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skippose.Stream(net(), backend="optional", precision="float64")
    with pytest.raises(ValueError, match="'optional' has no threads"):
        skippose.Stream(net(), backend="optional", threads=2)


@pytest.mark.parametrize("label", ["eager", "auto"])
def test_a_name_is_given_once(label):
    with pytest.raises(ValueError, match=f"a backend '{label}' is registered already"):
        register_backend(make(label))
    assert register_backend(EagerBackend) is EagerBackend  # the same one may say so again
