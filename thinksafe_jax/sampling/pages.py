"""TODO"""

import numpy as np


class PageAllocator:
    """Which page belongs to which slot. Pages are handed out and returned in O(1) each.

    Args:
        pages: of one shard, its page 0 included.
        slots: of all shards, shard after shard.
        pages_per_slot: width of the table.
        page_size: tokens in a page.
        shards: parts into which pool and slots are cut; page numbers are each shard's own.
    """

    def __init__(
        self, pages: int, slots: int, pages_per_slot: int, page_size: int, shards: int = 1
    ):
        self.page_size = page_size
        self.table = np.zeros((slots, pages_per_slot), np.int32)
        self._owned = np.zeros(slots, np.int64)
        self._per_shard = slots // shards
        self._free = [list(range(pages - 1, 0, -1)) for _ in range(shards)]
        self.pages = shards * (pages - 1)

    @property
    def used_pages(self) -> int:
        return self.pages - sum(map(len, self._free))

    def shard_of(self, slot: int) -> int:
        return slot // self._per_shard

    def free_pages(self, slot: int) -> int:
        """Free pages that `slot` could have."""
        return len(self._free[self.shard_of(slot)])

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def lacking(self, tokens: np.ndarray) -> list[int]:
        """The slots that need more pages for `tokens` i64 `[slots]` tokens in all."""
        return np.flatnonzero(-(-tokens // self.page_size) > self._owned).tolist()

    def reserve(self, slot: int, tokens: int) -> bool:
        """Gives `slot` pages for `tokens` tokens in all; False, and no change, if too few are."""
        free = self._free[self.shard_of(slot)]
        owned = int(self._owned[slot])
        missing = self.pages_for(tokens) - owned
        if missing > len(free):
            return False
        if missing > 0:
            self.table[slot, owned : owned + missing] = free[-missing:]
            del free[-missing:]
            self._owned[slot] += missing
        return True

    def release(self, slot: int) -> None:
        """Takes back every page of `slot`."""
        owned = int(self._owned[slot])
        self._free[self.shard_of(slot)].extend(self.table[slot, :owned].tolist())
        self.table[slot] = 0
        self._owned[slot] = 0

    def pages_of(self, slot: int, width: int) -> np.ndarray:
        """The first `width` pages of a slot, i32 `[width]`; 0 where it has none."""
        out = np.zeros(width, np.int32)
        columns = min(width, self.table.shape[1])
        out[:columns] = self.table[slot, :columns]
        return out
