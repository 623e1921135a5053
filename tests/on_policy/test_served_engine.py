"""Rollouts of a server: token ids and log-probabilities as they are said, faults with their fix."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.on_policy.lora_server import NOT_FOUND, LoraServer, choice, serving
from thinksafe_jax.config import RolloutServerConfig, SamplingConfig
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError, RetryLater
from thinksafe_jax.models import LoraConfig, parse_config
from thinksafe_jax.on_policy import ServedEngine, ServedModel
from thinksafe_jax.sampling import Request
from thinksafe_jax.weights import import_adapter

pytestmark = pytest.mark.hub

CFG = parse_config({
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "tie_word_embeddings": True, "vocab_size": 32,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64,
    "attention_bias": False, "hidden_act": "silu",
})  # fmt: skip
LORA = LoraConfig(r=2, alpha=4.0, dropout=0.0, targets=("v_proj",))
EOS = 31
PLAIN = SamplingConfig(1.0, 1.0, 0, max_new_tokens=3)
WARM = replace(PLAIN, temperature=0.7)


def adapter(value: float):
    """`[L, r, in]` and `[L, heads, head dim, r]`, as training has them."""
    a, b = np.full((2, 2, 8), value, np.float32), np.full((2, 1, 4, 2), -value, np.float32)
    return {"layers": {"v_proj": {"a": a, "b": b}}}


def letters(body, folder):
    """Ends at once where the seed is even, else is cut; the model's own words have a slope of 1."""
    if body["logprobs"] == 5:
        heat = body["temperature"]
        return choice([1], [-0.5], "length", {1: -0.5 / heat, 2: -1.5 / heat, 3: -2.5 / heat})
    if body["seed"] % 2:
        return choice([1, 2, 3][: body["max_tokens"]], [-0.25, -0.5, -1.0], "length")
    return choice([7, EOS], [-0.125, -2.0], "stop")


def requests(count, sampling=PLAIN):
    return [Request(f"p{n // 2}", [4, 5, 6], sampling, sample=n % 2) for n in range(count)]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("thinksafe_jax.http_client._FIRST_WAIT", 0.01)
    made = LoraServer(letters)
    with serving(made) as made.url:
        yield made


def engine(server, folder, *, mode="processed", **changes) -> ServedEngine:
    settings = {"retries": 1, "concurrency": 2, "timeout_seconds": 20.0, **changes}
    config = RolloutServerConfig(server.url, "student", str(folder), **settings)
    model = ServedModel("student", CFG, (EOS,), 16)
    return ServedEngine(config, model, LORA, seed=1, mode=mode, owner="a run")


def test_completions_are_what_the_server_drew(server, tmp_path):
    made = engine(server, tmp_path)
    done = {(d.id, d.sample): d for d in made.generate(requests(8))}
    bodies = server.of("completions")
    assert len(done) == len(bodies) == 8 and len({body["seed"] for body in bodies}) == 8
    whole, cut = (
        next(d for d in done.values() if d.finish_reason == r) for r in ("stop", "length")
    )
    assert whole.token_ids == [7] and whole.drawn.token_ids == [7, EOS]
    assert whole.drawn.logprobs == whole.drawn.sampling_logprobs == [-0.125, -2.0]
    assert cut.token_ids == cut.drawn.token_ids == [1, 2, 3]
    assert bodies[0]["prompt"] == [4, 5, 6] and bodies[0]["model"] == "student"
    # or a server's generation_config.json would decide
    assert bodies[0]["top_k"] == -1 and bodies[0]["repetition_penalty"] == 1.0
    assert 0 < made.stats.occupancy <= 1


def test_the_same_rollout_has_the_same_seed(server, tmp_path):
    for folder in ("a", "b"):
        list(engine(server, tmp_path / folder, concurrency=1).generate(requests(4)))
    seeds = [body["seed"] for body in server.of("completions")]
    assert seeds[:4] == seeds[4:]


def test_each_policy_is_loaded_once_and_let_go(server, tmp_path):
    """The server reads the weights that were given, under a name that says which they are."""
    seen = []

    def draw(body, folder):
        weights, lora = import_adapter(folder, CFG)
        seen.append((body["model"], weights["layers"]["v_proj"]["b"].min(), lora.scale))
        return letters(body, folder)

    server.draw = draw
    with engine(server, tmp_path) as made:
        for value in (0.5, 0.5, 2.0):
            made.update_adapter(adapter(value))
            list(made.generate(requests(1)))
        assert len(server.adapters) == 1
    assert [(value, scale) for _, value, scale in seen] == [(-0.5, 2), (-0.5, 2), (-2, 2)]
    assert len({name for name, _, _ in seen}) == 2
    assert len(server.of("load_lora_adapter")) == 2
    assert not server.adapters and not list(tmp_path.iterdir())


def test_where_all_rollouts_are_there_the_server_is_not_asked(server, tmp_path):
    with engine(server, tmp_path) as made:
        made.update_adapter(adapter(1.0))
    assert not server.asked


def test_an_adapter_that_a_killed_start_left_is_used(server, tmp_path):
    """Its name is a hash of the weights; what a killed start wrote is what this one would."""
    killed = engine(server, tmp_path)
    killed.update_adapter(adapter(1.0))
    list(killed.generate(requests(1)))
    with engine(server, tmp_path) as made:
        made.update_adapter(adapter(1.0))
        assert len(list(made.generate(requests(2)))) == 2
    assert not server.adapters and not list(tmp_path.iterdir())


def test_a_server_that_forgot_the_adapter_is_no_reason_to_stop(server, tmp_path):
    with engine(server, tmp_path) as made:
        made.update_adapter(adapter(1.0))
        list(made.generate(requests(1)))
        server.adapters.clear()
        made.update_adapter(adapter(2.0))
        assert len(list(made.generate(requests(1)))) == 1


def test_a_container_sees_the_folder_under_another_path(server, tmp_path):
    inside = tmp_path / "inside"
    inside.symlink_to(tmp_path / "outside", target_is_directory=True)
    made = engine(server, tmp_path / "outside", served_folder=f"{inside}/")
    made.update_adapter(adapter(1.0))
    list(made.generate(requests(1)))
    [path] = server.adapters.values()
    assert path.parent == inside


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NOT_FOUND, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"),
        ((400, "LoRA rank 2 is greater than max_lora_rank"), "--max-lora-rank 2 or more"),
        ((401, "no"), "ROLLOUT|on_policy.server.url and on_policy.server.served_name"),
    ],
)
def test_a_server_that_loads_no_adapters_is_refused(server, tmp_path, answer, words):
    server.instead = lambda path, body: answer if path == "load_lora_adapter" else None
    made = engine(server, tmp_path)
    made.update_adapter(adapter(1.0))
    with pytest.raises(EnvironmentFault, match=words):
        list(made.generate(requests(1)))


def test_an_adapter_of_a_rank_that_the_server_has_no_room_for_is_said(server, tmp_path):
    """vLLM answers 500, as it does when it is about to go."""
    rank = 500, "LoRA rank 2 is greater than max_lora_rank 1."
    server.instead = lambda path, body: rank if path == "load_lora_adapter" else None
    made = engine(server, tmp_path, retries=0)
    made.update_adapter(adapter(1.0))
    with pytest.raises(RetryLater, match=r"max_lora_rank 1.*needs .*--max-lora-rank 2 or more"):
        list(made.generate(requests(1)))


def test_a_folder_that_the_server_does_not_see_is_refused(server, tmp_path):
    made = engine(server, tmp_path, served_folder="/elsewhere")
    made.update_adapter(adapter(1.0))
    with pytest.raises(EnvironmentFault, match="does not see the adapter /elsewhere/thinksafe-"):
        list(made.generate(requests(1)))


GOOD = choice([7, EOS], [-0.5, -0.5], "stop")


def changed(**values):
    return GOOD | {"logprobs": GOOD["logprobs"] | values}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "its answer is no completion"),
        (GOOD | {"logprobs": None}, "no log-probabilities, which the importance ratio needs"),
        (changed(tokens=["a", "b"]), "names a token 'a' instead of its id"),
        (changed(tokens=["token_id:7"]), "1 tokens and 2 log-probabilities"),
        (changed(tokens=["token_id:7", "token_id:32"]), "it serves another model"),
        (changed(token_logprobs=[-0.5, None]), "a log-probability is None"),
        (changed(token_logprobs=[-0.5, -9999.0]), "of a drawn token is -9999"),
        (changed(token_logprobs=[-0.5, math.inf]), "of a drawn token is inf"),
        (GOOD | {"token_ids": [7]}, "gives 1 other token ids"),
        (choice([7], [-0.5], "stop"), "ends with the token 7, expected an end-of-sequence"),
        (choice([7], [-0.5], "length"), "cut an answer at 1 of 3 tokens.*--max-model-len"),
        (choice([7], [-0.5], "abort"), "ended by 'abort'; expected stop or length"),
        (choice([1] * 4, [-1.0] * 4, "length"), "has 4 tokens; expected 1 to 3"),
        (choice([], [], "length"), "has 0 tokens"),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused_with_the_fix(server, tmp_path, bad, words):
    def instead(path, body):
        return (200, {"choices": [bad] if bad else [], "usage": None})

    server.instead = instead
    with pytest.raises(EnvironmentFault, match=words):
        list(engine(server, tmp_path).generate(requests(1)))


def test_a_server_that_reads_another_prompt_is_refused(server, tmp_path):
    server.instead = lambda *_: (200, {"choices": [GOOD], "usage": {"prompt_tokens": 4}})
    with pytest.raises(EnvironmentFault, match="read 4 prompt tokens instead of 3"):
        list(engine(server, tmp_path).generate(requests(1)))


def test_a_prompt_that_the_server_refuses_is_named(server, tmp_path):
    server.instead = lambda *_: (400, "maximum context length is 4")
    with pytest.raises(InputError, match=r"the prompt p0 of 3 tokens.*context length is 4"):
        list(engine(server, tmp_path).generate(requests(1)))


def test_what_came_before_the_server_went_is_kept(server, tmp_path):
    server.instead = lambda *_: (503, "busy") if len(server.asked) > 3 else None
    kept = []
    with pytest.raises(RetryLater, match=r"no answer after 2 tries .*what was drawn is kept"):
        kept.extend(engine(server, tmp_path).generate(requests(8)))
    assert len(kept) == 3


@pytest.mark.parametrize("mode", ["processed", "raw"])
def test_at_another_temperature_the_server_says_what_the_method_needs(server, tmp_path, mode):
    """A policy gradient is at the temperature of the rollouts; a divergence is the model's own."""
    if mode == "raw":
        server.draw = lambda body, folder: letters(body | {"temperature": 1.0}, folder)
    done = list(engine(server, tmp_path, mode=mode).generate(requests(4, WARM)))
    told, untold = "sampling_logprobs", "logprobs"
    if mode == "raw":
        told, untold = untold, told
    assert all(len(getattr(d.drawn, told)) == len(d.drawn.token_ids) for d in done)
    assert not any(getattr(d.drawn, untold) for d in done)
    assert sum(body["logprobs"] == 5 for body in server.of("completions")) == 2
    other = engine(server, tmp_path, mode={"raw": "processed", "processed": "raw"}[mode])
    with pytest.raises(EnvironmentFault, match=f"log-probabilities are {mode}; .*--logprobs-mode"):
        list(other.generate(requests(1, WARM)))


def test_a_server_whose_distribution_cannot_be_told_is_refused(server, tmp_path):
    server.instead = lambda path, body: (200, {"choices": [GOOD], "usage": None})
    with pytest.raises(EnvironmentFault, match="cannot be told apart"):
        list(engine(server, tmp_path).generate(requests(1, WARM)))


def test_what_never_fits_is_said_before_it_is_sent(server, tmp_path):
    made = engine(server, tmp_path)
    assert made.refuses(requests(1)[0]) is None
    assert "16 tokens together" in made.refuses(Request("p", [1] * 14, PLAIN))
    assert made.refuses(Request("p", [], PLAIN))


def test_an_address_with_a_password_is_refused(server, tmp_path):
    server.url = "http://me:secret@host/v1"
    with pytest.raises(ConfigError, match=r"on_policy.server.url: holds.*ROLLOUT_API_KEY"):
        engine(server, tmp_path)
