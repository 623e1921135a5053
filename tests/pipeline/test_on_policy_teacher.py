"""OPD end to end: a teacher of another width, what it does to the student, and who is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import shared_asset
from thinksafe_jax.config import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    ModelSource,
    OnPolicyConfig,
    PromptSource,
    Recipe,
    SamplingConfig,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import forward, init_params, load_config, logits, parse_config
from thinksafe_jax.pipeline import run_pipeline
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import load_params, resolve_model, save_checkpoint

pytestmark = pytest.mark.slow

STUDENT = resolve_model("mini:student")
PROMPTS, STEPS = 8, 4
TEACHER = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 48,  # the student's is 128
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": False,  # an LM head of its own
    "vocab_size": 1600,  # rows of its head; the student has 1,536, as Qwen2.5-7B beside 1.5B
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "attention_bias": False,
    "hidden_act": "silu",
}


def make_teacher(folder, **changes):
    """A random checkpoint with the student's tokenizer."""
    config = TEACHER | changes
    cfg = parse_config(config)
    params = init_params(cfg, jax.random.key(0), jnp.float32)
    save_checkpoint(folder, params, cfg, config, tokenizer_from=STUDENT)
    return folder


def recipe_with(teacher, memory="device") -> Recipe:
    """Every step asks the same prompts, eight of them."""
    return Recipe(
        name="opd",
        student=ModelSource("mini:student", dtype="float32"),
        guard=GuardConfig(kind="refusal-match"),  # opd asks none
        engine=EngineConfig(slots=8, window=8, page_size=16, max_length=96),
        synthesis=SynthesisConfig(
            prompts=[
                PromptSource(f"mini:train-{label}", limit=PROMPTS // 2)
                for label in ("harmful", "benign")
            ]
        ),
        training=TrainingConfig(
            learning_rate=5e-2,
            warmup_ratio=0.0,
            batch_size=PROMPTS,
            micro_batch_size=PROMPTS,
            max_length=96,
            lora_dropout=0.0,
            kl="reverse",
            remat="none",
        ),
        on_policy=OnPolicyConfig(
            method="opd",
            steps=STEPS,
            samples=1,
            sampling=SamplingConfig(1.0, 1.0, 0, max_new_tokens=24),
            loss="dapo",
            teacher=ModelSource(str(teacher), dtype="float32"),
            teacher_memory=memory,
            max_log_p_gap=1e-4,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(max_new_tokens=24)),
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(run directory, teacher's folder) of a whole run."""
    teacher = make_teacher(tmp_path_factory.mktemp("models") / "teacher")
    run_dir = tmp_path_factory.mktemp("runs") / "opd"
    run_pipeline(recipe_with(teacher), run_dir, stages=["train", "export"])
    return run_dir, teacher


def lines_of(run_dir, stage):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def rollouts_of(run_dir, step):
    folder = run_dir / f"rollouts/step-{step:06d}/samples"
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def log_probabilities(folder, prompt, answer):
    """`[n, V]`, of the student's words at each token of an answer, by a plain pass over the row."""
    cfg = load_config(folder)
    params = load_params(folder, cfg, jnp.float32)
    ids = np.array([[*prompt, *answer]], np.int32)
    positions = np.arange(ids.size, dtype=np.int32)[None]
    hidden = forward(params, cfg, ids, positions, np.ones_like(ids))
    words = load_config(STUDENT).vocab_size
    before = logits(params, cfg, hidden)[0, len(prompt) - 1 : -1, :words]
    return np.asarray(jax.nn.log_softmax(before), np.float64)


def test_the_divergence_from_the_teacher_falls_on_the_same_prompts(taught):
    run_dir, _ = taught
    asked = [{row["id"] for row in rollouts_of(run_dir, step)} for step in range(STEPS)]
    assert len(asked[0]) == PROMPTS and asked == [asked[0]] * STEPS
    kl = [line["kl"] for line in lines_of(run_dir, "train")]
    assert len(kl) == STEPS and kl == sorted(kl, reverse=True)
    assert kl[-1] < 0.9 * kl[0], kl


def test_the_first_steps_divergence_is_that_of_the_two_models(taught):
    """Before any update: KL(student || teacher) over the student's words, mean over all tokens."""
    run_dir, teacher = taught
    tokenizer, values = ChatTokenizer(STUDENT), []
    for row in rollouts_of(run_dir, 0):
        prompt = tokenizer.prompt_ids(row["prompt"])
        student, theirs = (
            log_probabilities(folder, prompt, row["token_ids"]) for folder in (STUDENT, teacher)
        )
        values += np.sum(np.exp(student) * (student - theirs), axis=-1).tolist()
    np.testing.assert_allclose(lines_of(run_dir, "train")[0]["kl"], np.mean(values), rtol=1e-5)


def test_a_teacher_that_lies_with_the_host_teaches_the_same_to_the_bit(taught, tmp_path):
    """It is on the device for its pass alone; the pool that it displaces is made anew."""
    run_dir, teacher = taught
    run_pipeline(recipe_with(teacher, "host"), tmp_path, stages=["train", "export"])
    weights = [folder / "adapter/adapter_model.safetensors" for folder in (run_dir, tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # of the same policies: a run may go on with its teacher elsewhere
    run_pipeline(recipe_with(teacher, "host"), run_dir, stages=["train"])


def exchange_two_words(file):
    """Writes the tokenizer anew with two words in each other's place; returns both."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = [word for word, id in vocabulary.items() if id in (1000, 1001)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    return first, second


def refusal(teacher, run_dir) -> str:
    """What is said of a teacher; nothing was sampled before."""
    with pytest.raises(ConfigError) as caught:
        run_pipeline(recipe_with(teacher), run_dir, stages=["train"])
    assert not list(run_dir.rglob("rollouts/*"))
    return str(caught.value)


def test_a_teacher_with_two_words_exchanged_is_refused_by_the_word(tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    words = exchange_two_words(teacher / "tokenizer.json")
    said = refusal(teacher, tmp_path / "run")
    assert f"on_policy.teacher {teacher} has another vocabulary than the student" in said
    assert any(f"the word {word!r} is 100" in said for word in words)


def test_a_teacher_of_another_family_is_refused_by_its_size(tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    for file in shared_asset("tokenizers", "r1-distill-qwen").iterdir():
        shutil.copy(file, teacher / file.name)
    said = refusal(teacher, tmp_path / "run")
    assert "151,643 words instead of 1,531" in said
    assert "choose a teacher of the student's family" in said


def test_a_teacher_with_fewer_rows_in_its_head_is_refused(tmp_path):
    """The same words, but not a probability for every token of the student."""
    teacher = make_teacher(tmp_path / "teacher", vocab_size=1500)
    said = refusal(teacher, tmp_path / "run")
    assert "has 1500 rows in its LM head, the student 1536" in said
