"""People get slots, keep them over gaps, and free them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skippose.slots import SlotManager


def test_birth_gap_and_death():
    slots = SlotManager(2, patience=2)
    seats = slots.update(["a", "b"])
    assert seats.slot == {"a": 0, "b": 1} and seats.born == [0, 1] and not seats.left_out
    for _ in range(2):
        assert slots.update(["b"]).born == []
    assert slots.update(["a", "b"]).born == []  # back within the patience: goes on
    for _ in range(3):
        slots.update(["b"])
    assert slots.occupied == {"b": 1}
    seats = slots.update(["a", "b"])  # the same id, after its death
    assert seats.slot == {"a": 0, "b": 1} and seats.born == [0]


def test_who_is_away_for_longest_makes_room_and_nobody_present_does():
    slots = SlotManager(2, patience=9)
    slots.update([1, 2])
    slots.update([2])
    slots.update([])
    seats = slots.update([3])
    assert seats.slot == {3: 0} and seats.born == [0] and slots.occupied == {2: 1, 3: 0}
    seats = slots.update([2, 3, 4])
    assert seats.left_out == [4] and seats.slot == {2: 1, 3: 0}
    slots.end(2)
    assert slots.update([3, 4]).slot == {3: 0, 4: 1}


def test_reset_forgets_everyone():
    slots = SlotManager(1)
    slots.update(["a"])
    slots.reset()
    assert slots.update(["b"]).born == [0]


def test_bad_input():
    with pytest.raises(ValueError, match="capacity .* found 0"):
        SlotManager(0)
    with pytest.raises(ValueError, match="patience .* found -1"):
        SlotManager(1, -1)
    slots = SlotManager(2)
    slots.update(["a"])
    with pytest.raises(ValueError, match="'b' twice"):
        slots.update(["b", "b"])
    assert slots.occupied == {"a": 0}


@given(st.lists(st.sets(st.integers(0, 5)), max_size=30), st.integers(1, 4), st.integers(0, 3))
def test_rules_hold_in_any_video(frames, capacity, patience):
    slots = SlotManager(capacity, patience)
    owner: dict[int, int] = {}
    for present in frames:
        seats = slots.update(sorted(present))
        held = seats.slot
        assert set(held) | set(seats.left_out) == present
        assert len(held) == min(len(present), capacity)
        assert len(set(held.values())) == len(held)
        assert all(0 <= slot < capacity for slot in held.values())
        for track, slot in held.items():
            assert (slot in seats.born) or owner.get(slot) == track
            owner[slot] = track
