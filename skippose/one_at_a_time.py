"""Objects that one thread at a time may use, and say so."""

from __future__ import annotations

import threading


class OneAtATime:
    """A lock that nobody waits for: ``with`` it, whoever comes second gets an error.

    Waiting would be wrong twice: frames from two threads would be taken for one video, in an order
    that nobody chose; and a network that calls the stream it runs in would wait for itself.

    Args:
        what: it guards, with its article: "a stream".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            if self._owner == threading.get_ident():
                raise RuntimeError(
                    f"{self._what} was used from within one of its own calls, as by the network "
                    "that it runs; nothing was changed"
                )
            raise RuntimeError(
                f"{self._what} was used by two threads at once; each thread needs one of its own "
                "(they may share the network). Nothing was changed"
            )
        self._owner = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self._owner = None
        self._lock.release()
