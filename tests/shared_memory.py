"""A task that uses memory which is not limited as allocated memory is."""

import mmap


def fill_shared_memory(size: int) -> int:
    """Writes to every page of so many bytes that could be shared with other processes; returns how many there are."""
    with mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as memory:
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1
        return len(memory)
