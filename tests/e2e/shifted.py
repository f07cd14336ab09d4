"""``herenow`` with a wall clock that another process can set.

python -m e2e.shifted FILE serve …

The file holds eight bytes: how many nanoseconds the clock is ahead, as a signed little-endian number. The variable
``TESTS_LOG_CAPACITY`` says how many changes are kept for a ``since``.
"""

import mmap
import os
import struct
import sys
import time
from pathlib import Path

_NS = struct.Struct("<q")

LOG_CAPACITY = "TESTS_LOG_CAPACITY"


class SettableClock:
    """The other side of the file.

    Args:
        path: it is made, with a clock that is right.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, ahead_s: float) -> None:
        """Let the clock be so many seconds ahead of the machine's; behind, where negative."""
        mode = "r+b" if self.path.exists() else "w+b"
        with self.path.open(mode) as file:
            file.write(_NS.pack(round(ahead_s * 1e9)))


def shift_clocks(path: Path) -> None:
    """Let this process's wall clock follow the file; its steady clocks stay as they are."""
    with path.open("rb") as file:
        ahead = mmap.mmap(file.fileno(), _NS.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def now_ns() -> int:
        return true_ns() + int(_NS.unpack_from(ahead)[0])

    time.time_ns = now_ns
    time.time = lambda: now_ns() / 1e9


if __name__ == "__main__":
    shift_clocks(Path(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    from herenow.cli.entry import main
    from herenow.keeper import policy  # here: what is loaded may keep the clock by name

    policy.LOG_CAPACITY = int(os.environ.get(LOG_CAPACITY, policy.LOG_CAPACITY))
    main()
