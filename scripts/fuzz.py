"""Damage files for hours, and print each one that ends in a traceback.

    python scripts/fuzz.py --minutes 60 [--reader tokenizer] [--seed 1]
    python scripts/fuzz.py --reader recipe --reproduce 123456   # one of them, with its traceback

Every reader of tests/hostile/readers.py gets sound files with one of them damaged (tests/hostile/
mutations.py). It may read them, or refuse them with a ThinkSafeError of a few lines. All else is a
fault, and so is what takes over `--limit` seconds or `--memory` GB. Exit code 1: faults were seen.
"""

import argparse
import logging
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.hostile.readers import MOST_CHARACTERS, READERS, Workbench
from thinksafe_jax.errors import ThinkSafeError


class TooLong(BaseException):
    """The reader is not done within its limit; no `except Exception` catches this."""


class LongMessage(Exception):
    """A sentence that holds half a file."""


def fault_of(bench: Workbench, seed: int, limit: int) -> BaseException | None:
    """What a reader says of the mutant, where it is neither success nor a sentence."""
    signal.alarm(limit)
    try:
        bench.read(bench.mutant(seed))
    except ThinkSafeError as error:
        return None if len(str(error)) <= MOST_CHARACTERS else LongMessage(*error.args)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    finally:
        signal.alarm(0)
    return None


def place_of(error: BaseException) -> str:
    """Type of an error and the package's innermost line in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "thinksafe_jax" in f.filename] or frames
    line = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {line}"


def _too_long(*_: object) -> None:
    raise TooLong


def _limit_memory(gigabytes: float) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    most = mapped + int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [reader.name for reader in READERS]
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--reader", choices=names, help="only this one; default: all in turn")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--reproduce", type=int, metavar="NUMBER", help="as printed with a fault")
    parser.add_argument("--limit", type=int, default=20, help="seconds for one file")
    parser.add_argument("--memory", type=float, default=8, help="GB beyond what is mapped at first")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")
    logging.disable()
    readers = [reader for reader in READERS if given.reader in (None, reader.name)]
    with TemporaryDirectory(prefix="fuzz-") as scratch:
        benches = []
        for number, reader in enumerate(readers):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            benches.append(Workbench(reader, folder))
            benches[-1].read({})  # sound files are read; compiles what has to be compiled
        if given.reproduce is not None:
            return _reproduce(benches[0], given.reproduce, given.limit)
        _limit_memory(given.memory)
        return _search(benches, given)


def _reproduce(bench: Workbench, number: int, limit: int) -> int:
    for name, content in bench.mutant(number).items():
        print(f"{name}: {content[:2000] if content is not None else None!r}")
    error = fault_of(bench, number, limit)
    if error is not None:
        traceback.print_exception(error)
    return int(error is not None)


def _search(benches: list[Workbench], given: argparse.Namespace) -> int:
    print(f"seed {given.seed}; {len(benches)} readers, {given.minutes:g} minutes", flush=True)
    rng, faults, tried = random.Random(given.seed), Counter(), 0
    end = time.monotonic() + 60 * given.minutes
    while time.monotonic() < end:
        bench, number = rng.choice(benches), rng.randrange(2**32)
        tried += 1
        if (error := fault_of(bench, number, given.limit)) is not None:
            place = f"{bench.reader.name}: {place_of(error)}"
            faults[place] += 1
            if faults[place] == 1:
                said = str(error).splitlines()[:1]
                print(f"FAULT {place}: {''.join(said)[:200]}")
                again = f"--reader '{bench.reader.name}' --reproduce {number}"
                print(f"      python scripts/fuzz.py {again}", flush=True)
    print(f"{tried} damaged files, {len(faults)} kinds of faults")
    for place, count in faults.most_common():
        print(f"{count:6}  {place}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
