"""The secret of a run: a process that does not know it takes no part.

    rendezvous   ── nonce ──────────────────────►   process 1
    process 1    ── hello, HMAC(secret, nonce) ──►   rendezvous

The secret itself is never sent. It is the same text in THINKSAFE_SECRET on every host, which
scripts/launch sets anew for every run. Without it, whoever reaches the port can take a place.
"""

import hmac
import os
import secrets

VARIABLE = "THINKSAFE_SECRET"


def read_secret() -> bytes:
    """The run's secret; empty where none is set."""
    return os.environ.get(VARIABLE, "").strip().encode()


def make_nonce() -> str:
    """What a newcomer must answer, new for every connection."""
    return secrets.token_hex(16)


def prove(secret: bytes, nonce: str) -> str:
    """The answer of who knows the secret, in hex."""
    return hmac.new(secret, nonce.encode(), "sha256").hexdigest()


def is_proven(secret: bytes, nonce: str, proof: object) -> bool:
    """Whether a proof is that of the secret; the time that takes says nothing about it."""
    expected = prove(secret, nonce).encode()
    return isinstance(proof, str) and hmac.compare_digest(expected, proof.encode(errors="replace"))
