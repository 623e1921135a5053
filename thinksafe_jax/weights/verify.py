"""`thinksafe verify MODEL`: our logits beside those of transformers, over given texts."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import EnvironmentFault, InputError, quoted
from thinksafe_jax.json_files import MEBIBYTE, load_unique, read_text
from thinksafe_jax.models import Adapter, ModelConfig, Params, forward, load_config, logits
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.terminal import Progress
from thinksafe_jax.weights.loading import load_params
from thinksafe_jax.weights.peft import import_adapter
from thinksafe_jax.weights.resolve import resolve_model

WINDOW = 512  # tokens in one sequence
_LARGEST_TEXTS = 256 * MEBIBYTE
_TEXT_KEYS = ("text", "prompt", "question", "problem", "instruction")
_SAMPLE = """\
The bridge had stood for two hundred years before anyone thought to measure how far it swayed.
On windless days it moved less than the width of a finger; in the spring storms, a hand's breadth.
Solve for x: 3x + 7 = 22. First subtract 7 from both sides, 3x = 15, then divide by 3, so x = 5.
def gcd(a, b):
    while b:
        a, b = b, a % b
    return a
Die Prüfung beginnt um 9:30 Uhr; 日本語の文も一行あります。 Привет! 3.14159, 2^10 = 1024, 100 % 😀
I cannot help with that, but here is what you can do instead: talk to someone whom you trust.
"""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a PASS. float32: rounding alone; bfloat16: 8 bits of mantissa in every layer."""

    max_abs_logit_diff: float
    mean_kl: float
    top1_agreement: float


BOUNDS = {"float32": Bounds(1e-2, 1e-6, 1.0), "bfloat16": Bounds(4.0, 2e-2, 0.9)}


@dataclass(frozen=True)
class Comparison:
    """Figures over all positions.

    Attributes:
        max_abs_logit_diff: largest difference of a logit.
        mean_kl: mean KL(transformers || ours) of the next-token distributions, in nats.
        top1_agreement: share of positions where both name the same token.
        tokens: positions compared.
    """

    model: str
    dtype: str
    adapter: str | None
    max_abs_logit_diff: float
    mean_kl: float
    top1_agreement: float
    tokens: int

    @property
    def problems(self) -> list[str]:
        """Figures outside their bounds; empty is a PASS."""
        bounds = BOUNDS[self.dtype]
        problems = []
        for name, most in asdict(bounds).items():
            value = getattr(self, name)
            good = value >= most if name == "top1_agreement" else value <= most
            if not good:  # NaN is never good
                problems.append(f"{name} {value:.3g}, bound {most:g}")
        return problems

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            **asdict(self),
            "bounds": asdict(BOUNDS[self.dtype]),
            "pass": not self.problems,
        }


def verify_model(
    name: str,
    *,
    texts: Path | None = None,
    dtype: str = "float32",
    adapter: Path | None = None,
    revision: str | None = None,
    allow_nonfinite: bool = False,
) -> Comparison:
    """Runs both implementations over the same tokens.

    Args:
        name: as for `resolve_model`.
        texts: plain text, or .jsonl with a text, prompt, question, problem or instruction in each
            row; default a few lines of prose, code, mathematics and other scripts.
        dtype: float32 or bfloat16, for both.
        adapter: PEFT adapter that both apply.
        allow_nonfinite: compare weights with NaN and infinity, too.

    Raises:
        EnvironmentFault: torch (or peft) is missing.
        InputError: a bad model, adapter or text file.
    """
    torch = _import("torch")
    directory = resolve_model(name, revision)
    cfg = load_config(directory)
    tokens = _tokens(directory, cfg, texts)
    reference = _reference(torch, directory, dtype, adapter)
    params = load_params(directory, cfg, jnp.dtype(dtype), allow_nonfinite=allow_nonfinite)
    ours = _our_logits(params, cfg, adapter)

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with Progress("verify", sum(map(len, tokens)), unit="tokens") as bar, torch.no_grad():
            for ids in tokens:
                # padded at the end to one shape: causal, so harmless
                batch = np.zeros((1, len(tokens[0])), np.int32)
                batch[0, : len(ids)] = ids
                theirs = reference(torch.tensor([ids])).logits[0].float().numpy()
                with jax.default_matmul_precision("highest"):  # accelerators round float32 else
                    mine = np.asarray(ours(batch))[: len(ids)]
                yield mine, theirs
                bar.advance(len(ids))

    figures = compare(pairs())
    return Comparison(name, dtype, None if adapter is None else str(adapter), **figures)


def _our_logits(
    params: Params, cfg: ModelConfig, adapter: Path | None
) -> Callable[[np.ndarray], jax.Array]:
    """Our implementation, compiled: token ids `[1, T]` to logits `[T, V]`."""
    weights, lora = ({}, None) if adapter is None else import_adapter(adapter, cfg)

    @jax.jit
    def run(params: Params, weights: Adapter, ids: jax.Array) -> jax.Array:
        positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
        hidden = forward(
            params, cfg, ids, positions, jnp.ones_like(ids), adapter=weights or None, lora=lora
        )
        return logits(params, cfg, hidden)[0]

    return lambda ids: run(params, weights, jnp.asarray(ids))


def report_lines(result: Comparison) -> list[str]:
    """What is printed: each figure beside its bound, then PASS or FAIL."""
    bounds = BOUNDS[result.dtype]
    verdict = "PASS" if not result.problems else f"FAIL: {'; '.join(result.problems)}"
    return [
        f"{result.model} in {result.dtype} beside transformers, {result.tokens} tokens",
        f"  max |Δlogit|     {result.max_abs_logit_diff:.3g}  (at most "
        f"{bounds.max_abs_logit_diff:g})",
        f"  mean KL          {result.mean_kl:.3g}  (at most {bounds.mean_kl:g})",
        f"  top-1 agreement  {result.top1_agreement:.4%}  (at least {bounds.top1_agreement:.0%})",
        verdict,
    ]


def write_figures(file: Path, result: Comparison) -> None:
    """--json: the figures, their bounds and the verdict."""
    atomic_write(file, json.dumps(result.as_json(), indent=2) + "\n")


def compare(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The figures over (ours, theirs) logits `[T, V]`."""
    most, kl, same, count = 0.0, 0.0, 0, 0
    for ours, theirs in pairs:
        difference = np.abs(ours - theirs).max()
        most = max(most, float(difference)) if np.isfinite(difference) else float("nan")
        log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
        kl += float((np.exp(log_p) * (log_p - log_q)).sum())
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        count += len(ours)
    return {
        "max_abs_logit_diff": most,
        "mean_kl": kl / count,
        "top1_agreement": same / count,
        "tokens": count,
    }


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _import(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise EnvironmentFault(
            f"verify compares with transformers on {module}, which is not installed: "
            "pip install 'thinksafe-jax[test]'"
        ) from None


def _reference(torch: Any, directory: Path, dtype: str, adapter: Path | None) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if adapter is not None:
        model = _import("peft").PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


def _tokens(directory: Path, cfg: ModelConfig, texts: Path | None) -> list[list[int]]:
    """Windows of token ids, the first the longest."""
    window = min(WINDOW, cfg.max_position_embeddings)
    if texts is None and not (directory / "tokenizer.json").exists():
        rng = np.random.default_rng(0)  # a checkpoint without words
        return rng.integers(0, cfg.vocab_size, (1, window)).tolist()
    from thinksafe_jax.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(directory)
    ids = tokenizer.encode_text(_SAMPLE if texts is None else _read_texts(texts))
    if not ids:
        raise InputError(f"{texts}: no text in it")
    return [ids[i : i + window] for i in range(0, len(ids), window)]


def _read_texts(file: Path) -> str:
    content = read_text(file, largest=_LARGEST_TEXTS)
    if file.suffix != ".jsonl":
        return content
    parts = []
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            row = load_unique(line) if line.strip() else {}
        except ValueError as error:
            raise InputError(f"{file}:{number}: not a JSON object ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{file}:{number}: not a JSON object")
        texts = {key: row[key] for key in _TEXT_KEYS if key in row}
        if odd := [key for key, text in texts.items() if not isinstance(text, str)]:
            raise InputError(f"{file}:{number}: {odd[0]} is {quoted(texts[odd[0]])}, not text")
        parts += texts.values()
    return "\n\n".join(parts)
