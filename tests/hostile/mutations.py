"""Ways in which a file goes wrong: on its way, in an editor, or because somebody wants it to."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body></body></html>"

# what may stand in the place of a value
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**30, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "-1", "1e-06", "false", "nan", "None",
    "\x00", "\ud800", "\u2028", "\ufeff", "a" * 5000, "../../etc/passwd", "/dev/null",
    "${seed}", "${a.b}", "{prompt}", "<think>", [], {}, [[]], [None], [1, "2"], {"a": 1}, {"": {}},
    [[1] * 3] * 3,
)  # fmt: skip
# the same for YAML, as it is written
SCALARS = (
    "", "~", "yes", "no", "on", ".nan", ".inf", "-.inf", "1e999", "0x1F", "1_000", "012",
    "2001-01-01",
    "'", '"', "[", "{", "[]", "{}", "[1, a]", "{a: 1}", "&a [*a]", "*nowhere",
    "!!python/name:os.system",
    "!!binary aGk=", "? a", "- a", "|", ">", "%", "@", "${seed}", "${a.b}", "${oc.env:HOME}",
    "a: b: c",
    "99999999999999999999", "-1", "0", "x" * 5000, "\u2028", "\x07",
)  # fmt: skip
WHOLE = (
    b"", b"\n", b" ", b"\x00", b"null", b"[]", b"{}", b"1", b'"text"', b"NaN", b"[1]", b"[{}]",
    b"[null]",
    b'{"a":' * 20_000, b"[" * 50_000 + b"]" * 50_000, b"a" * 100_000, b"- " * 5_000,
    b"\xff\xfe\x00\x00",
    LFS_POINTER, HTML, b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"PAR1", b"PK\x03\x04",
    b"\x80\x04\x95",
)  # fmt: skip


def mutate(content: bytes, rng: Random) -> bytes:
    """The content with one to three things wrong; now and then something else altogether."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice((*_BY_BYTES, _structured, _structured, _structured, _whole))(
            content, rng
        )
    return content


def _whole(_: bytes, rng: Random) -> bytes:
    return rng.choice(WHOLE)


def _truncated(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _beginning_lost(content: bytes, rng: Random) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def _flipped(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    # half of the time near the beginning, where headers are
    near = min(len(changed), rng.choice((64, 4096, 10**9)))
    for _ in range(rng.choice((1, 1, 2, 10)) if near else 0):
        changed[rng.randrange(near)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _inserted(content: bytes, rng: Random) -> bytes:
    odd = (
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        "\u2028".encode(),
        b"\r",
        b"\x0b",
        b",",
        b'"',
        b"}",
        b"\n",
    )
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(odd) + content[at:]


def _repeated(content: bytes, rng: Random) -> bytes:
    begin = rng.randrange(len(content) + 1)
    end = min(len(content), begin + rng.randrange(1, 400))
    return content[:end] + content[begin:end] + content[end:]


def _with_bom(content: bytes, _: Random) -> bytes:
    return b"\xef\xbb\xbf" + content


def _other_encoding(content: bytes, rng: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-32", "latin-1")), "replace")


def _other_line_ends(content: bytes, rng: Random) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"")))


def _lines_shuffled(content: bytes, rng: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


_BY_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _truncated, _beginning_lost, _flipped, _inserted, _repeated, _with_bom, _other_encoding,
    _other_line_ends, _lines_shuffled,
)  # fmt: skip


def _structured(content: bytes, rng: Random) -> bytes:
    """A change of what the file says, in the first form in which it can be read."""
    header = _safetensors_header(content)
    if header is not None and is_json(header):
        changed = _json_changed(header, rng)
        length = len(changed) if rng.random() < 0.8 else rng.choice((0, 1, 2**40, 2**64 - 1))
        return length.to_bytes(8, "little") + changed + content[8 + len(header) :]
    if is_json(content):
        return _json_changed(content, rng)
    lines = content.splitlines(keepends=True)
    if not lines:
        return b"\n"
    at = rng.randrange(len(lines))
    try:
        lines[at] = _json_changed(lines[at], rng) + b"\n"
    except (ValueError, RecursionError):
        lines[at] = _scalar_changed(lines[at], rng)
    return b"".join(lines)


def is_json(content: bytes) -> bool:
    """Whether the bytes spell a JSON value."""
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _safetensors_header(content: bytes) -> bytes | None:
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    return header if len(header) == length and header[:1] == b"{" else None


def _scalar_changed(line: bytes, rng: Random) -> bytes:
    """A line of YAML with another value, key or depth; of anything else, with another field."""
    for mark in (b": ", b","):
        before, found, after = line.rstrip(b"\n").partition(mark)
        if found:
            value = rng.choice(SCALARS).encode()
            return rng.choice(
                (
                    before + mark + value + b"\n",
                    before + mark + value + b"\n" + line,
                    before + b"x" + mark + after + b"\n",
                    b"  " + line,
                    line.lstrip(),
                    b"",
                )
            )
    return rng.choice(SCALARS).encode() + b"\n"


def _json_changed(content: bytes, rng: Random) -> bytes:
    """JSON with one value, key or item changed.

    Raises:
        ValueError: it is no JSON.
    """
    value = json.loads(content)
    places = list(_places(value))
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    parent, key = rng.choice(places)
    change = rng.randrange(6)
    if change <= 2:
        parent[key] = rng.choice(VALUES)
    elif change == 3:
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, rng.choice((parent[key], *VALUES)))
    elif change == 4:
        parent[rng.choice((f"{key}x", "", key.upper(), "\ud800"))] = parent.pop(key)
    else:  # the same key twice, with two values; order shuffled
        items = [(k, json.dumps(v)) for k, v in parent.items()] + [
            (key, json.dumps(rng.choice(VALUES)))
        ]
        rng.shuffle(items)
        twice = "{" + ", ".join(f"{json.dumps(k)}: {v}" for k, v in items) + "}"
        parent.clear()
        parent["\x01"] = 0
        return json.dumps(value).replace(json.dumps({"\x01": 0}), twice, 1).encode()
    return json.dumps(value).encode()


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of the values in a JSON value, of long lists and tables some."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys[:40] if depth else keys:
        yield value, key
        if depth < 6:
            yield from _places(value[key], depth + 1)
