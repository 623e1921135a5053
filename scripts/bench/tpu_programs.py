# python scripts/bench/tpu_programs.py --raw RAW --json scripts/bench/results/tpu_programs.json
"""What the TPU's own compiler makes of the programs; no chip is needed, libtpu is.

    decode    a window of 32 steps of 64 slots of one replica; its figures are those of a step
    drafted   the same with drafts of three tokens: four positions of each slot in a pass
    prefill   a prompt of 512 tokens
    guard     a pass over an exchange of 16,384 tokens for each replica of a host
    train     a LoRA step: sequences of 16,384 tokens, two a pass at least

    kernel                    which attention, and why the preferred ones are refused
    hbm_bytes, by_operation   what a run moves to and from HBM; VMEM does not count
    floor_bytes, over_floor   weights and live keys and values, read once; of decode
    rare_bytes                what the draw's rare branches would move beyond the common one
    copies                    copies and transposes in HBM of 8 MB or more: none is the aim
    collectives               by kind; how many run beside other work; weights gathered in decode
    overlap                   seconds, at least, of all work and all messages, and of those that
                              work can hide; what hides behind what: planning/overlap.py
    peak_bytes                arguments and temporaries

Compiling takes minutes; of a program that has not changed, what the compiler gave is kept in
THINKSAFE_CACHE. The folder RAW gets it to be read.
The slots have rows at a mean context of 5,200 tokens, as many as the cache holds. With --kv-dtype
int8 keys and values are rounded (`engine.kv_dtype`), in pages of 128 tokens; so is the floor.
LIBTPU_INIT_ARGS has flags of the compiler; a row has those that it was compiled with.
With --schedule the compiler is stopped when the program is scheduled (tpu_schedule.py): the same
text in seconds, and as temporaries the bytes of its buffer assignment, of which it reserves more.
"""

import argparse
import gzip
import json
import math
import os
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from machine import machine
from tpu_schedule import scheduled

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import AttentionRequest, ModelConfig, refusals
from thinksafe_jax.models.attention import IMPLEMENTATIONS as FRESH
from thinksafe_jax.planning.abstract_programs import (
    Program,
    Sampler,
    decode_program,
    guard_program,
    prefill_program,
    shard_bytes,
    train_program,
)
from thinksafe_jax.planning.collectives import collectives_of
from thinksafe_jax.planning.compiler import compiler_output
from thinksafe_jax.planning.devices import compile_devices
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.hbm_traffic import HbmTraffic, hbm_traffic
from thinksafe_jax.planning.memory import Settings, cache_dtype, filled_rows, phase_budget
from thinksafe_jax.planning.overlap import Overlap, overlap_of
from thinksafe_jax.planning.roofline import decode_cost
from thinksafe_jax.sampling.attention import IMPLEMENTATIONS as PAGED
from thinksafe_jax.sharding import MeshConfig, load_mesh

MODELS = ("Qwen3-0.6B", "Qwen3-8B", "R1-Distill-Qwen-7B", "R1-Distill-Llama-8B")
MESHES = ("v5e-8", "v6e-8", "v5p-8")
PROGRAMS = ("decode", "drafted", "guard", "train", "prefill")
STEPS = ("decode", "drafted")  # programs of WINDOW steps
DRAFTS = 3  # tokens of a draft
SLOTS, WINDOW, PROMPT, LENGTH, MEAN_CONTEXT, PAGE = 64, 32, 512, 16384, 5200, 64
INT8_PAGE = 128  # tokens: what the kernel for int8 takes
_HLO_TYPES = {"bfloat16": "bf16", "int8": "s8", "float32": "f32"}
SHOWN = 8  # collectives that run beside other work
PIECE = 512  # tokens that the paged kernel reads at a time
AIMS = {"Qwen3-0.6B": 1.25}  # of decode's bytes over the floor; of the others:
AIM = 1.10


@dataclass(frozen=True)
class Case:
    """A program of a model on a mesh.

    Attributes:
        sampler: of decode and prefill.
        rows: slots that have a row.
        attention: of decode, instead of the preferred one.
        kv_dtype: as `EngineConfig.kv_dtype`.
    """

    program: str
    model: str
    mesh: MeshConfig
    cfg: ModelConfig
    sampler: Sampler
    rows: int
    attention: str = ""
    kv_dtype: str = "model"

    @classmethod
    def of(
        cls,
        program: str,
        model: str,
        mesh_name: str,
        attention: str = "",
        kv_dtype: str = "model",
    ) -> "Case":
        mesh, (_, cfg) = load_mesh(mesh_name), find_model(model)
        settings = Settings(mean_context=MEAN_CONTEXT, kv_dtype=kv_dtype).capped(cfg)
        budget = phase_budget("generate", mesh.generate, cfg, mesh.topology, settings)
        pool = min(budget.pool_tokens, SLOTS * settings.context)  # as the engine has it
        page = PAGE if kv_dtype == "model" else INT8_PAGE
        sampler = Sampler(
            SLOTS, pool, settings.context, PROMPT, page, window=WINDOW, kv_dtype=kv_dtype
        )
        rows = min(SLOTS, filled_rows(pool, settings.mean_context))
        attention = attention if program in STEPS else ""
        if program == "drafted":
            sampler = replace(sampler, drafts=DRAFTS)
        return cls(program, model, mesh, cfg, sampler, rows, attention, kv_dtype)

    @property
    def name(self) -> str:
        """Of its files."""
        name = f"{self.program}-{self.model}-{self.mesh.name}"
        name += "" if self.kv_dtype == "model" else f"-{self.kv_dtype}"
        return f"{name}-{self.attention}" if self.attention else name

    def command(self, folder: Path) -> list[str]:
        """What compiles this program alone."""
        options = {
            "raw": folder,
            "programs": self.program,
            "models": self.model,
            "meshes": self.mesh.name,
            "kv-dtype": self.kv_dtype,
            "attention": self.attention,
        }
        return [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items())]

    def build(self) -> Program:
        """The program, in bfloat16."""
        cfg, mesh = self.cfg, self.mesh
        generate = mesh.generate.for_model(cfg)
        if self.program == "train":
            config = TrainingConfig(micro_batch_size=2, max_length=LENGTH)
            devices = compile_devices(mesh.topology)
            return train_program(cfg, mesh.train, devices, config, "bfloat16")
        of_host = generate.of_host(mesh.topology.hosts)
        if self.program == "guard":
            devices = compile_devices(mesh.topology, of_host.devices)
            return guard_program(cfg, of_host, devices, 1, LENGTH, "bfloat16")
        devices = compile_devices(mesh.topology, generate.of_replica().devices)
        make = decode_program if self.program in STEPS else prefill_program
        program = make(cfg, generate, devices, self.sampler, "bfloat16")
        if self.attention:
            spec = replace(program.statics["spec"], attention=self.attention)
            program = replace(program, statics={**program.statics, "spec": spec})
        return program

    def kernel(self) -> dict[str, str | None]:
        """Every attention, the preferred first, with why it is refused; None is one that can."""
        if self.program in STEPS:
            request = AttentionRequest("tpu", self.cfg.head_dim, page_size=self.sampler.page_size)
            return refusals(PAGED, replace(request, kv_dtype=self.kv_dtype))
        length = PROMPT if self.program == "prefill" else LENGTH
        return refusals(FRESH, AttentionRequest("tpu", self.cfg.head_dim, "bfloat16", length))


def compiled(case: Case, folder: Path, *, schedule: bool = False) -> tuple[str, dict[str, Any]]:
    """The program's text (HLO) and its memory; the folder gets both, to be read.

    `compiler_output` knows by the program itself whether it has been compiled. A file's name does
    not tell that the program has changed since.
    """
    facts: dict[str, Any]
    if schedule:
        program = case.build()
        text, temporaries = scheduled(case.command(folder), program.function.__name__)
        facts = {"argument_bytes": shard_bytes(program.arguments), "temporary_bytes": temporaries}
        facts["schedule"] = True
    else:
        output = compiler_output(case.build())
        text = output.text
        facts = {
            "argument_bytes": output.argument_bytes,
            "temporary_bytes": output.temporary_bytes,
            "compile_seconds": round(output.seconds, 1),
        }
    with gzip.open(folder / f"{case.name}.hlo.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    (folder / f"{case.name}.json").write_text(json.dumps(facts), encoding="utf-8")
    return text, facts


def row_of(case: Case, text: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a program."""
    decodes = case.program in STEPS
    steps = WINDOW if decodes else 1
    traffic = hbm_traffic(text, _pool_reads(case) if decodes else None)
    branches = "least" if decodes else "all"
    sent = collectives_of(text, branches=branches)
    overlap = overlap_of(text, case.mesh.topology, branches=branches)
    flags = os.environ.get("LIBTPU_INIT_ARGS", "")
    table = case.kernel()
    row = {
        "program": case.program,
        "model": case.model,
        "mesh": case.mesh.name,
        "chip": case.mesh.topology.chip,
        "kernel": kernel_of(case),
        **({} if case.kv_dtype == "model" else {"kv_dtype": case.kv_dtype}),
        **({"flags": flags} if flags else {}),
        "refused": {name: reason for name, reason in table.items() if reason},
        "hbm_bytes": round(traffic.bytes / steps),
        "rare_bytes": round(traffic.rare / steps),
        "by_operation": _largest(traffic, steps),
        "copies": [asdict(copy) for copy in traffic.copies],
        "collectives": {
            kind: {name: round(value / steps, 2) for name, value in asdict(t).items()}
            for kind, t in sorted(sent.items())
        },
        "overlap": _overlap(overlap, steps),
        "peak_bytes": facts["argument_bytes"] + facts["temporary_bytes"],
        **facts,
    }
    if decodes:
        phase = case.mesh.generate.for_model(case.cfg)
        cache = cache_dtype(case.kv_dtype, "bfloat16")
        floor = decode_cost(case.cfg, phase, case.rows, MEAN_CONTEXT, "bfloat16", cache).bytes
        row |= {"rows": case.rows, "floor_bytes": round(floor)}
        row |= {"decode_bytes_over_floor": round(traffic.bytes / steps / floor, 4)}
    return row


def _pool_reads(case: Case) -> dict[str, float]:
    """Bytes of a layer's keys, or values, that the kernel reads in a step, by the array's type.

    It reads whole pieces, or whole pages: half of one more than a row has, on average, and one of
    an idle slot.
    """
    by_pages = "pallas-tpu-queries" in (case.attention, kernel_of(case))
    whole = case.sampler.page_size if by_pages or case.program == "drafted" else PIECE
    tokens = case.rows * (MEAN_CONTEXT + whole / 2) + (SLOTS - case.rows) * whole
    reads = {}
    for leaf in jax.tree.leaves(case.build().arguments[1].layers[0]):
        shape = leaf.sharding.shard_shape(leaf.shape)
        of_page = math.prod(shape) / shape[1] * leaf.dtype.itemsize
        name = f"{_HLO_TYPES[leaf.dtype.name]}[{','.join(map(str, shape))}]"
        reads[name] = tokens * of_page / case.sampler.page_size
    return reads


def kernel_of(case: Case) -> str:
    """The attention that runs."""
    return case.attention or next(name for name, why in case.kernel().items() if why is None)


def _largest(traffic: HbmTraffic, steps: int) -> dict[str, int]:
    """Bytes of a step by operation, the small ones together."""
    kept = {name: round(size / steps) for name, size in traffic.by_operation.items()}
    large = {name: size for name, size in kept.items() if size >= traffic.bytes / steps / 500}
    return {**large, "other": sum(kept.values()) - sum(large.values())}


def _overlap(overlap: Overlap, steps: int) -> dict[str, Any]:
    """Messages of a step, and the longest of those that run beside other work, of the program."""
    shown = overlap.collectives[:SHOWN]
    return {
        "message_seconds": overlap.message_seconds / steps,
        "hidden_seconds": overlap.hidden_seconds / steps,
        "work_seconds": overlap.work_seconds / steps,
        "seconds": overlap.seconds / steps,
        "beside": [{**asdict(c), "hidden_seconds": c.hidden_seconds} for c in shown],
    }


def line(row: dict[str, Any]) -> str:
    """A row for the terminal: the program, and what hides behind what."""
    sent = ", ".join(
        f"{kind} {t['count']:g} ({t['asynchronous']:g} beside)"
        for kind, t in row["collectives"].items()
    )
    text = f"{row['program']:8}{row['model']:21}{row['mesh']:7}{row['kernel']:19}"
    text += f"{row['hbm_bytes'] / 1e9:9.3f} GB  peak {row['peak_bytes'] / 1e9:6.2f} GB"
    if over := row.get("decode_bytes_over_floor"):
        aim = AIMS.get(row["model"], AIM)
        text += f"  {over:.3f} of the floor ({'met' if over <= aim else 'MISSED'})"
    copies = sum(copy["bytes"] * copy["runs"] for copy in row["copies"])
    overlap = row["overlap"]
    least, work, hidden, whole = (
        1e3 * overlap[name]
        for name in ("seconds", "work_seconds", "hidden_seconds", "message_seconds")
    )
    lines = [f"{text}  copies {copies / 1e9:.3f} GB  {sent}"]
    lines += [
        f"        at least {least:,.2f} ms: work {work:,.2f}, which can hide {hidden:,.2f} of "
        f"{whole:,.2f} ms of messages"
    ]
    for c in overlap["beside"]:
        message, work = 1e3 * c["message_seconds"], 1e3 * c["work_seconds"]
        lines.append(
            f"        {c['runs']:>5} x {c['kind']} of {c['scope']}: {message:.3f} ms "
            f"behind {work:.3f} ms: {c['behind'] or 'nothing'}"
        )
    return "\n".join(lines)


def with_kept(file: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and those of other programs that the file has."""

    def key(row: dict[str, Any]) -> tuple[int, int, int, str, str, str]:
        program, mesh, model = row["program"], row["mesh"], row["model"]
        place = PROGRAMS.index(program), MESHES.index(mesh), MODELS.index(model)
        return *place, row["kernel"], row.get("kv_dtype", ""), row.get("flags", "")

    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return [row for _, row in sorted({key(row): row for row in before + rows}.items())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the rows")
    parser.add_argument("--raw", type=Path, required=True, help="what the compiler gave")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--meshes", nargs="+", default=MESHES)
    parser.add_argument("--attention", default="", help="of decode, instead of the preferred one")
    parser.add_argument("--kv-dtype", choices=("model", "int8"), default="model")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--schedule", action="store_true", help="stop before machine code")
    asked = parser.parse_args()
    asked.raw.mkdir(parents=True, exist_ok=True)
    rows = []
    for program in asked.programs:
        for mesh in asked.meshes:
            for model in asked.models:
                case = Case.of(program, model, mesh, asked.attention, asked.kv_dtype)
                rows.append(row_of(case, *compiled(case, asked.raw, schedule=asked.schedule)))
                print(line(rows[-1]), flush=True)
    if asked.json:
        kept = {"machine": machine(), "libtpu": version("libtpu"), "rows": []}
        kept["rows"] = with_kept(asked.json, rows)
        asked.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
