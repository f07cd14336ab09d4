"""What the operating system lets this process have."""

from herenow.logs import get_logger

log = get_logger("herenow.serve")

SPARE_FILES = 64
"""Open files that are no connections: the database, its log, the listening socket."""


def raise_file_limit(connections: int) -> None:
    """Let this process have so many connections open, as far as the system allows without asking anybody.

    The usual limit is 1,024 open files: beyond it, clients would be turned away while the settings let them in.
    """
    try:
        import resource
    except ImportError:  # Windows: there is no such limit
        return
    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # macOS refuses what is above its own limit, whatever it told
        most = soft
    if most < wanted:
        log.info("the system allows fewer connections", allowed=most - SPARE_FILES, max_connections=connections)
