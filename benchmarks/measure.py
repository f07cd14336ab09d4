"""What a process has used, read from outside, so that measuring costs the measured process nothing.

- CPU time, user and system of all its threads, ended ones included: its CPU-time clock, which any process may read
  (``clock_getcpuclockid(3)``; the kernel's scheduler keeps it in nanoseconds). ``/proc/PID/stat`` counts in steps of
  10 ms, and ``/proc/PID/schedstat`` is one thread's only. Child processes do not count; no peer starts any.
- Memory: ``/proc/PID/smaps_rollup``, which walks the pages. ``/proc/PID/status`` is up to some dozens of pages off on
  kernels from 6.2 on, which count per CPU. Kernel memory, socket buffers above all, is in neither.

Where these do not exist (not Linux), psutil answers: coarser, and PSS then equals RSS.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in RAM: all pages (RSS), and with shared pages divided among those who share them (PSS)."""

    rss: int
    pss: int


class LinuxGauge:
    """Reads what one running process has used so far, exactly."""

    def __init__(self, pid: int) -> None:
        self._smaps = Path(f"/proc/{pid}/smaps_rollup")
        # The id that clock_getcpuclockid(3) gives: the complement of the pid, and 2 for the scheduler's clock.
        self._clock = (~pid << 3) | 2

    def cpu_s(self) -> float:
        """Return the CPU time in seconds, user and system, since the process began."""
        return time.clock_gettime(self._clock)

    def memory(self) -> Memory:
        """Return the memory in RAM now."""
        fields = (line.split() for line in self._smaps.read_text(encoding="ascii").splitlines()[1:])
        sizes = {field[0]: int(field[1]) * 1024 for field in fields}
        return Memory(rss=sizes["Rss:"], pss=sizes["Pss:"])


class PsutilGauge:
    """The same through psutil, where the kernel is not Linux."""

    def __init__(self, pid: int) -> None:
        # psutil carries no types, and is not installed where only the tests run (`make test`).
        import psutil  # type: ignore[import-untyped, import-not-found, unused-ignore]

        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Return the CPU time in seconds, user and system, since the process began."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> Memory:
        """Return the memory in RAM now; PSS is not known and given as RSS."""
        rss = int(self._process.memory_info().rss)
        return Memory(rss=rss, pss=rss)


def gauge(pid: int) -> LinuxGauge | PsutilGauge:
    """Return the best gauge that this system has for a process."""
    return LinuxGauge(pid) if sys.platform == "linux" else PsutilGauge(pid)


def kernel_tcp_bytes() -> int | None:
    """Return the kernel's memory in TCP buffers of this network namespace, both ends of each connection included.

    ``None`` where it cannot be read. It counts in pages, and what waits unread is all that it counts.
    """
    try:
        lines = Path("/proc/net/sockstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = next(line.split() for line in lines if line.startswith("TCP:"))
    return int(fields[fields.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")
