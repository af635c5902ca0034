"""The backend of any network: its own modules, each convolution in its step form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from skippose.backends.base import Backend
from skippose.backends.masks import Mask
from skippose.backends.registry import register_backend
from skippose.backends.saved_state import check_layers, kinds_of
from skippose.frames_pass import Call, CallRecord, FramesPass, NetState
from skippose.layers import module_names
from skippose.ops import SkipState
from skippose.ops.schedule import Schedule
from skippose.report import Report


@register_backend
class EagerBackend(Backend):
    """Correct rather than fast; a failure in the middle of a frame changes nothing."""

    name = "eager"
    preference = 10

    def __init__(self, net: nn.Module, frame: Tensor, schedule: Schedule, **options: Any) -> None:
        self.net, self.schedule = net, schedule
        self._state: NetState | None = None
        self._calls: list[Call] | None = None
        self._records: dict[Call, CallRecord] = {}
        self._report = Report()

    def step(self, frame: Tensor) -> Any:
        run = FramesPass(1, self.schedule, self._state, keep_state=True, keep_masks=True)
        run.expect(self.net)
        with run.opened():
            output = self.net(frame)
        calls = list(run.records)
        if self._calls is None:
            run.check_ran()
        elif calls != self._calls:
            raise RuntimeError(
                f"the network made {len(calls)} calls of its layers in this frame and "
                f"{len(self._calls)} in the frame before, or in another order; its calls must "
                "not change from frame to frame"
            )
        report, state = self._report + run.report(self.net), run.state
        # Everything went through: commit.
        self._report, self._state, self._calls = report, state, calls
        self._records = run.records
        return output

    def forget(self, slots: Sequence[int]) -> None:
        if self._state is not None:
            age = self._state.age.clone()
            age[list(slots)] = 0
            self._state = NetState(age, self._state.layers)

    def report(self) -> Report:
        return self._report

    def masks(self) -> dict[str, Mask]:
        names = module_names(self.net)
        found = {}
        for call, record in self._records.items():
            if record.density is None:
                continue  # a layer without a gate
            name = names[call.layer] + (f"#{call.number}" if call.number else "")
            if record.gate is None:  # a gate that is not asked: one block, which is open
                opened = torch.ones_like(record.density, dtype=torch.bool)[:, :, None]
                found[name] = Mask(opened, record.out_size, record.out_size)
            else:
                found[name] = Mask(record.gate[:, 0, 0].clone(), record.block, record.out_size)
        return found

    def state_dict(self) -> dict[str, Any]:
        assert self._state is not None and self._calls is not None
        names = module_names(self.net)
        return {
            "age": self._state.age.clone(),
            "gates": kinds_of(self.net),
            "calls": [f"{names[c.layer]}#{c.number}" for c in self._calls],
            "layers": {
                f"{names[call.layer]}#{call.number}": {
                    f.name: value.clone()
                    for f in fields(SkipState)
                    if (value := getattr(state, f.name)) is not None
                }
                for call, state in self._state.layers.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_layers(self.net, state)
        modules = {name: module for module, name in module_names(self.net).items()}

        def call_of(key: str) -> Call:
            name, _, index = key.rpartition("#")
            if name not in modules:
                raise ValueError(f"the state has a layer {name!r} that the network lacks")
            return Call(modules[name], int(index))

        calls, layers = [call_of(key) for key in state["calls"]], {}
        for key, tensors in state["layers"].items():
            call = call_of(key)
            device = call.layer.get_parameter("weight").device
            layers[call] = SkipState(**{k: v.to(device, copy=True) for k, v in tensors.items()})
        self._state, self._calls = NetState(state["age"].clone(), layers), calls
