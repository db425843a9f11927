"""Memory that a process keeps for its next use, in place of giving it back to the system at once."""

import ctypes
import os

__all__ = ["keep"]

# parameters of mallopt, in malloc.h of the GNU C library
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_SET_BY_USERS = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep() -> bool:
    """Have this process keep the memory that it frees; call it before JAX starts its devices.

    A program of a CPU allocates its arrays at each call. The C library would ask the system for them, which
    writes zeros first: 0.4 s for a GB in pages of 4 kB. Users' settings in the environment are respected.

    Returns:
      Whether the C library does so: the GNU library can.

    >>> keep() in (True, False)
    True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or os.environ.keys() & set(_SET_BY_USERS):
        return False
    # one arena, since those of threads give back what they cannot extend
    return all(
        mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    )
