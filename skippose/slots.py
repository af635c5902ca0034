"""Who is in which slot of a stream: people come, go, and are lost for a moment."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seats:
    """Where the people of one frame are.

    Attributes:
        slot: track id -> slot, for everyone in the frame who has one.
        born: slots whose person is not the one before; their next frame must be dense.
        left_out: track ids for whom there was no slot.
    """

    slot: dict[Hashable, int]
    born: list[int] = field(default_factory=list)
    left_out: list[Hashable] = field(default_factory=list)


class SlotManager:
    """Maps the tracks of a video to a stream's fixed number of slots.

    Rules:

    - *Birth*: a new track gets the free slot of the lowest number. Without a free one it gets the
      slot of the absent track that was seen longest ago; if nobody is absent, it is left out until
      a slot becomes free. Nobody who is in the frame loses a slot.
    - *Gap*: a track that is not in the frame keeps its slot, and its state there, for ``patience``
      frames. If it is back by then it goes on as if it had not been away.
    - *Death*: after that, or by `end`, its slot is free; should the same id come again, it is born
      anew.

    Args:
        capacity: Slots of the stream.
        patience: Frames that an absent track keeps its slot.

    Raises:
        ValueError: A capacity below 1 or a negative patience.
    """

    def __init__(self, capacity: int, patience: int = 8) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, found {capacity}")
        if patience < 0:
            raise ValueError(f"patience must be at least 0, found {patience}")
        self.capacity = capacity
        self.patience = patience
        self.reset()

    def reset(self) -> None:
        """Forgets the video."""
        self._slot: dict[Hashable, int] = {}
        self._absent: dict[Hashable, int] = {}  # track -> frames since it was seen

    @property
    def occupied(self) -> dict[Hashable, int]:
        """Track id -> slot of everyone who has one, absent tracks too."""
        return dict(self._slot)

    def end(self, track: Hashable) -> None:
        """Frees the slot of a track that its tracker has ended."""
        self._slot.pop(track, None)
        self._absent.pop(track, None)

    def update(self, tracks: Iterable[Hashable]) -> Seats:
        """Takes the next frame's track ids; says where everyone is.

        Raises:
            ValueError: An id that the frame has twice; nothing has changed then.
        """
        present = list(tracks)
        if len(set(present)) != len(present):
            twice = next(track for track in present if present.count(track) > 1)
            raise ValueError(f"a frame must have each track once, found {twice!r} twice")
        for track in list(self._slot):
            self._absent[track] = 0 if track in set(present) else self._absent[track] + 1
            if self._absent[track] > self.patience:
                self.end(track)
        born, left_out = [], []
        for track in present:
            if track in self._slot:
                continue
            slot = self._free()
            if slot is None:
                left_out.append(track)
                continue
            self._slot[track], self._absent[track] = slot, 0
            born.append(slot)
        return Seats(
            {track: self._slot[track] for track in present if track in self._slot}, born, left_out
        )

    def _free(self) -> int | None:
        """The lowest free slot, else that of who is away for longest, else None."""
        for slot in range(self.capacity):
            if slot not in self._slot.values():
                return slot
        away = {track: frames for track, frames in self._absent.items() if frames}
        if not away:
            return None
        track = max(away, key=away.__getitem__)
        slot = self._slot[track]
        self.end(track)
        return slot
