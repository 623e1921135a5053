"""The part of the rows that one of several hosts works on, with nothing between them but a disk."""

import hashlib
import re
from dataclasses import dataclass

from thinksafe_jax.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`; numbers begin at 0.

    A row belongs to a part by a hash of its id, so no host needs to know of the others. The number
    of parts may change from one start to the next: what is done is read from all of them.
    """

    number: int = 0
    of: int = 1

    @staticmethod
    def parse(text: str) -> "Part":
        """From "2/8".

        Raises:
            ConfigError: not of that form, or a number outside.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or int(found[1]) >= int(found[2]):
            raise ConfigError(
                f"part {text!r}: expected NUMBER/PARTS from 0/8 to 7/8, for eight hosts"
            )
        return Part(int(found[1]), int(found[2]))

    def __contains__(self, id: str) -> bool:
        digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number

    @property
    def name(self) -> str:
        """For file names; empty for the whole."""
        return f"{self.number}of{self.of}" if self.of > 1 else ""


WHOLE = Part()
