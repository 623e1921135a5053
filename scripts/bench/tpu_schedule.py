# python scripts/bench/tpu_programs.py --schedule reads scripts/bench/tpu_schedule.py
"""The schedule that the TPU's compiler writes down before it makes machine code.

Machine code takes most of its time, and nothing that is read here follows from it:

    lower -> optimise -> schedule -> buffers -> [dump: text, buffers] -> machine code
                                                          the compiler is stopped here

The dump is what `xla_dump_to` gives (https://openxla.org/xla/hlo_dumps). It is the compiled
program's text, but for elements of tuples: `%loop#2` stands for a line of its own.
"""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from thinksafe_jax.planning.hlo import with_plain_tuples

_TEXT = "after_optimizations_after_buffer_assignment"
_BUFFERS = "after_optimizations-buffer-assignment"
_TEMPORARY = re.compile(r"^allocation \d+: size (\d+), page 0, preallocated-temp", re.M)


def scheduled(command: list[str], program: str) -> tuple[str, int]:
    """Text of the first program of that name that a command compiles, and its temporaries' bytes.

    Args:
        command: is ended when the program is scheduled.
        program: name of the jitted function.

    Raises:
        RuntimeError: the command ended before.
    """
    with tempfile.TemporaryDirectory(prefix="schedule-") as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text"
        # nothing kept: what has been compiled before would not be scheduled again
        environment = {**os.environ, "XLA_FLAGS": flags, "THINKSAFE_CACHE": f"{folder}/cache"}
        log = Path(folder, "log")
        with log.open("w") as output:
            child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            while (file := _whole(Path(folder), program)) is None:
                if child.poll() is not None:
                    raise RuntimeError(f"nothing was scheduled: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        finally:
            child.kill()
            child.wait()
        buffers = file.with_name(file.name.replace(_TEXT, _BUFFERS)).read_text(encoding="utf-8")
        temporary = sum(int(size) for size in _TEMPORARY.findall(buffers))
        return with_plain_tuples(file.read_text(encoding="utf-8")), temporary


def _whole(folder: Path, program: str) -> Path | None:
    """The dumped text, once its last line is there."""
    for file in folder.glob(f"*jit_{program}.*{_TEXT}.txt"):
        with file.open("rb") as data:
            data.seek(0, os.SEEK_END)
            data.seek(max(0, data.tell() - 4))
            if data.read().rstrip(b"\n").endswith(b"\n}"):
                return file
    return None
