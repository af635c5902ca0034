"""Gated layers that a pass does not see: whoever opened it names them."""

import copy
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skippose
from skippose import InputNormGate, SkipConv2d
from skippose.backends.registry import backend_names
from skippose.export import can_export
from skippose.layers import gated_layers, gated_pass, module_names
from skippose.plan.errors import CaptureError

torch.set_num_threads(1)

GATE = InputNormGate(1e6)
"""What it gates holds the first frame."""


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skippose.layers.network._said", set())


class Net(nn.Module):
    """Two convolutions that a subclass reaches in a way of its own, and a counted layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(3, 2)

    def convolve(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convolve(x).mean((2, 3)))


class InAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.convs = [self.first, self.second]

    def convolve(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return x


class BoundMethods(Net):
    def __init__(self) -> None:
        super().__init__()
        self.methods = (self.first.forward, self.second.forward)

    def convolve(self, x: Tensor) -> Tensor:
        return self.methods[1](self.methods[0](x))


class Closure(Net):
    def __init__(self) -> None:
        super().__init__()
        first, second = self.first, self.second
        self.run = lambda x: second(first(x))

    def convolve(self, x: Tensor) -> Tensor:
        return self.run(x)


class Functional(Net):
    def convolve(self, x: Tensor) -> Tensor:
        for conv in (self.first, self.second):
            x = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)
        return x


class InThreads(Net):
    def convolve(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            for conv in (self.first, self.second):
                x = pool.submit(torch.no_grad()(conv), x).result()
        return x


def gated(kind: type[nn.Module] = Net, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return skippose.convert(kind(), GATE, **arguments).eval()


def patched() -> nn.Module:
    """With each layer's forward replaced on the object, by one that does not call it."""
    net = gated()
    for layer in (net.first, net.second):
        layer.forward = lambda x, layer=layer: F.conv2d(
            x, layer.weight, layer.bias, padding=layer.padding
        )
    return net


UNSEEN: dict[str, Callable[[], nn.Module]] = {
    "list": lambda: gated(InAList),
    "bound methods": lambda: gated(BoundMethods),
    "closure": lambda: gated(Closure),
    "functional": lambda: gated(Functional),
    "threads": lambda: gated(InThreads),
    "patched": patched,
}
FRAMES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def in_clips(net: nn.Module) -> None:
    with skippose.clips(4), torch.no_grad():
        net(FRAMES)


def in_clips_past_its_hooks(net: nn.Module) -> None:
    with skippose.clips(4) as run, torch.no_grad():
        net.forward(FRAMES)
    run.report(net)


def in_export(net: nn.Module) -> None:
    if not can_export():
        pytest.skip("this torch cannot export the step")
    skippose.export_step(net, FRAMES[:1])


def in_a_stream(backend: str) -> Callable[[nn.Module], None]:
    return lambda net: skippose.Stream(net, backend=backend)(FRAMES[:1])


OPENED: dict[str, Callable[[nn.Module], None]] = {
    "clips": in_clips,
    "report": in_clips_past_its_hooks,
    "export_step": in_export,
    **{backend: in_a_stream(backend) for backend in backend_names()},
}


# -- none of them ran -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:no gated layer ran")  # before the report is asked for
@pytest.mark.parametrize("way", UNSEEN)
@pytest.mark.parametrize("opened", OPENED)
def test_a_network_of_which_nothing_was_gated_is_an_error(way, opened):
    net = UNSEEN[way]()
    message = rf"none of the 2 gated layers of {type(net).__name__} ran: 'first', 'second'\."
    if way == "threads":
        message += ".*In other threads there ran, densely: 'first', 'second'"
    with pytest.raises(ValueError, match=message) as caught:
        OPENED[opened](net)
    assert not isinstance(caught.value, CaptureError), "another backend would not gate it either"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("opened", [*backend_names(), "export_step"])
def test_what_was_never_converted_is_told_from_what_was(opened):
    def refused(net: nn.Module, match: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            OPENED[opened](net.eval())
        assert not isinstance(caught.value, CaptureError)

    refused(Net(), "Net has no gated convolution; make it one with skippose.convert")
    without = skippose.convert(Net(), GATE)
    for layer in gated_layers(without).values():
        layer.set_gate(None)
    refused(without, "its 2 skip convolutions have no gate; give them one with skippose.convert")
    program = torch.jit.trace(gated(), FRAMES)
    refused(program, "traced, scripted or exported.*give the network that it was made from")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_program_that_was_traced_has_no_gates_and_clips_say_so():
    program = torch.jit.trace(gated(), FRAMES)
    with pytest.raises(RuntimeError, match="no layer ran in this pass.*traced or scripted"):
        in_clips(program)


def test_clips_in_which_nothing_ran_are_an_error():
    with pytest.raises(RuntimeError, match="no layer ran in this pass"), skippose.clips(4):
        pass


def test_an_error_inside_clips_is_not_hidden_by_what_did_not_run():
    for net in (gated(InAList), nn.Identity()):
        with pytest.raises(KeyError, match="own"), skippose.clips(4):
            net(FRAMES)
            raise KeyError("own")


def test_a_pass_whose_layer_refused_its_input_has_been_told_so():
    net = gated()
    with skippose.clips(3), pytest.raises(ValueError, match="batch of 4"):
        net(FRAMES)


def in_another_thread(net: nn.Module) -> None:
    def work() -> None:
        with torch.no_grad():
            net(FRAMES)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_network_that_runs_in_another_thread_is_named():
    """As the replicas of data parallelism do."""
    net = gated()
    message = "no layer ran.*In other threads there ran, densely: 'first', 'second'"
    with pytest.raises(RuntimeError, match=message), skippose.clips(4):
        in_another_thread(net)


def test_what_runs_densely_on_purpose_in_the_own_thread_is_not_from_another():
    net = gated()
    refused = pytest.raises(RuntimeError, match="no layer ran")
    with refused as caught, skippose.clips(4), gated_pass(None):
        net(FRAMES)
    assert "In other threads" not in str(caught.value)


def test_replicas_of_which_only_what_follows_runs_here_are_named():
    """A counted layer ran in the pass, and nobody knows of which network."""
    net, after = gated(), skippose.convert(nn.Sequential(nn.Conv2d(3, 2, 1)), None)
    said = pytest.warns(UserWarning, match="no gated layer ran.*'first', 'second'")
    with said, torch.no_grad(), skippose.clips(4) as run:
        in_another_thread(net)
        after(FRAMES)
    with pytest.raises(RuntimeError, match="no gate loss.*'first', 'second'"):
        run.gate_loss()


# -- some of them ran -----------------------------------------------------------------------------


class Half(Net):
    """``first`` is reached past the registry, ``second`` is not, ``head`` is not called at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)
        self.kept = [self.first]

    def convolve(self, x: Tensor) -> Tensor:
        return self.second(self.kept[0](x))


@pytest.mark.parametrize("opened", ["clips", *backend_names()])
def test_layers_that_did_not_run_beside_others_are_named_once(opened):
    net = gated(Half)
    message = r"2 of the 3 gated layers of Half did not run: 'first', 'head'\. That is right where"
    with pytest.warns(UserWarning, match=message) as said:
        OPENED[opened](net)
    assert len(said) == 1, [str(w.message) for w in said]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OPENED[opened](net)
        OPENED[opened](gated(Half))


def test_no_more_than_five_are_listed():
    class Long(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x)

    net = skippose.convert(Long(*[nn.Conv2d(3, 3, 1) for _ in range(9)]), GATE).eval()
    with pytest.warns(UserWarning, match=r"8 of the 9.*: '1', '2', '3', '4', '5', \.\.\.\. "):
        in_clips(net)


# -- no false alarms ------------------------------------------------------------------------------


class Other(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stem, self.net = nn.Conv2d(3, 3, 1), net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.stem(x))


def quiet_networks() -> dict[str, nn.Module]:
    opened = skippose.convert(Net(), skippose.GumbelGate(init_open=3.0))
    some = gated(overrides={"second": None})
    return {
        "gated": gated(),
        "dense, but counted": skippose.convert(Net(), None).eval(),
        "one gated": some,
        "in training": opened.train(),
        "its conversion is a part": Other(gated()).eval(),
        "converted twice": skippose.convert(Other(gated()), GATE).eval(),
        "a layer by itself": skippose.convert(nn.Conv2d(3, 2, 1), GATE).eval(),
    }


@pytest.mark.parametrize("name", quiet_networks())
def test_a_network_that_runs_as_it_should_is_not_remarked_on(name):
    net = quiet_networks()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with skippose.clips(4) as run:
            net(FRAMES)
            in_another_thread(net)
        run.report(net)
        if gated_layers(net) and not net.training:
            for backend in ("eager", "torch"):
                skippose.Stream(net, backend=backend)(FRAMES[:1])


def test_a_part_of_a_network_may_run_by_itself():
    net = gated()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        with skippose.clips(4):
            net.first(FRAMES)


def test_a_gate_that_was_taken_away_is_not_missed():
    net = gated(Half)
    net.first.set_gate(None)
    net.head = nn.Identity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_clips(net)


def test_copies_know_their_own_layers(tmp_path):
    net = gated()
    torch.save(net, tmp_path / "net.pt")
    loaded = torch.load(tmp_path / "net.pt", weights_only=False)
    for again in (copy.deepcopy(net), loaded):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            in_clips(again)
        kept = [again.first]
        again.convolve = lambda x, kept=kept, again=again: again.second(kept[0](x))
        again.first = copy.deepcopy(again.first)
        with pytest.warns(UserWarning, match="1 of the 2 gated layers of Net did not run: 'first'"):
            in_clips(again)
        skippose.layers.network._said.clear()


# -- what replaced a layer's forward --------------------------------------------------------------


@pytest.mark.parametrize("opened", ["clips", *backend_names()])
def test_a_forward_that_calls_the_one_it_replaced_is_gated(opened):
    """As tools do that put something before and after a layer's own forward."""
    net = gated()
    inner = net.first.forward
    net.first.forward = lambda x: inner(x) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OPENED[opened](net)
    with torch.no_grad(), skippose.clips(4) as run:
        clip = net(FRAMES)
    assert len(run.records) == 3
    if opened != "clips":
        stream = skippose.Stream(net, backend=opened)
        with torch.no_grad():
            torch.testing.assert_close(torch.cat([stream(f[None]) for f in FRAMES]), clip)
            torch.testing.assert_close(stream(FRAMES[:1]), net(FRAMES[:1]))


@pytest.mark.parametrize("opened", OPENED)
def test_another_computation_under_a_gate_is_refused(opened):
    """The gate would compute with the weights alone."""
    net = gated()
    net.first._conv_forward = lambda x, weight, bias: F.conv2d(x, 2 * weight, bias, padding=1)
    with pytest.raises(ValueError, match="'first'.*its _conv_forward was replaced on the object"):
        OPENED[opened](net)


# -- names ----------------------------------------------------------------------------------------


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


def test_names_are_those_without_the_wrapper_of_what_is_compiled():
    net = gated()
    plain = list(module_names(net).values())
    net.second = compiled(net.second)
    found = module_names(compiled(net))
    assert list(dict.fromkeys(found.values())) == plain
    assert list(gated_layers(compiled(net))) == ["first", "second"]
    assert found[net.second] == found[net.second._orig_mod] == "second"


@pytest.mark.parametrize("backend", ["eager", "torch", "native"])
def test_reports_and_saved_streams_have_the_names_of_the_network_inside(backend):
    net, inside = gated(), gated()
    inside.second = compiled(inside.second)
    outside = compiled(inside)
    streams = [skippose.Stream(n, backend=backend) for n in (net, outside)]
    for stream in streams:
        stream(FRAMES[:1])
    names = [[layer.name for layer in stream.report().layers] for stream in streams]
    assert names[0] == names[1] == ["first", "second", "linear"]
    again = skippose.Stream(net, backend=backend)
    again.load_state_dict(streams[1].state_dict())
    assert torch.equal(again(FRAMES[1:2]), streams[0](FRAMES[1:2]))
    with torch.no_grad(), skippose.clips(4) as run:
        outside(FRAMES)
    assert list(run.report(outside).densities) == ["first", "second"]


@pytest.mark.parametrize("opened", ["export_step", *backend_names()])
def test_streams_run_the_network_and_not_what_it_was_compiled_to(opened):
    def never(graph, inputs):
        raise AssertionError("compiled")

    OPENED[opened](torch.compile(gated(), backend=never))


def test_a_skip_convolution_is_a_network_of_its_own():
    assert list(gated_layers(SkipConv2d(1, 1, 1, gate=GATE))) == [""]
