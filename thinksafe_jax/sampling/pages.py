"""The pages of the KV cache on the host: which page belongs to which slot.

    table[slot] = [7, 3, 9, 0, ...]      page 7 holds the slot's tokens 0..ps-1, page 3 the next ps

`kv_cache` has the pages themselves, and a picture of them.
"""

import numpy as np
from jaxtyping import Int, Int32


class PageAllocator:
    """Hands out pages and takes them back, in O(1) each.

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

    def shard_of(self, slot: int) -> int:
        """The shard in which a slot lies, which is where its pages are."""
        return slot // self._per_shard

    def free_pages(self, slot: int) -> int:
        """Free pages that `slot` could have."""
        return len(self._free[self.shard_of(slot)])

    def pages_for(self, tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-tokens // self.page_size)

    def lacking(self, tokens: Int[np.ndarray, " slots"]) -> list[int]:
        """The slots that need more pages for `tokens` tokens in all."""
        return np.flatnonzero(-(-tokens // self.page_size) > self._owned).tolist()

    def reserve(self, slot: int, tokens: int) -> bool:
        """Gives `slot` pages for `tokens` tokens in all; False, and no change, if too few are."""
        free = self._free[self.shard_of(slot)]
        owned = int(self._owned[slot])
        lacking = self.pages_for(tokens) - owned
        if lacking > len(free):
            return False
        if lacking > 0:
            self.table[slot, owned : owned + lacking] = free[-lacking:]
            del free[-lacking:]
            self._owned[slot] += lacking
        return True

    def release(self, slot: int) -> None:
        """Takes back every page of `slot`."""
        owned = int(self._owned[slot])
        self._free[self.shard_of(slot)].extend(self.table[slot, :owned].tolist())
        self.table[slot] = 0
        self._owned[slot] = 0

    def pages_of(self, slot: int, width: int) -> Int32[np.ndarray, " width"]:
        """The first `width` pages of a slot; 0 where it has none."""
        out = np.zeros(width, np.int32)
        columns = min(width, self.table.shape[1])
        out[:columns] = self.table[slot, :columns]
        return out
