"""What an evaluation is of, from what a session holds: the model and the judge, each by identity.

Identities follow the content of files: another checkpoint under the same path is another model.
"""

from collections.abc import Sequence
from pathlib import Path

from thinksafe_jax.config import GuardConfig
from thinksafe_jax.evaluation import Judge, Subject
from thinksafe_jax.pipeline.session import Session
from thinksafe_jax.sampling import Engine
from thinksafe_jax.storage import content_hash
from thinksafe_jax.weights import fingerprint


def subject(session: Session, engine: Engine, folders: Sequence[Path]) -> Subject:
    """The student in `engine`.

    Args:
        folders: of all that its weights came from: checkpoint, and adapter if there is one.
    """
    recipe = session.recipe
    identity = content_hash(recipe.student, *map(fingerprint, folders))
    reasoning, kv_dtype = recipe.synthesis.reasoning, recipe.engine.kv_dtype
    return Subject(engine, session.tokenizer, reasoning, identity, kv_dtype)


def judge_of(session: Session) -> Judge:
    """The guard of the evaluation; its identity is empty where no checkpoint is in it."""
    cfg: GuardConfig = session.recipe.judging
    folders = [session.folder(guard) for guard in (cfg, *cfg.members) if guard.model]
    identity = content_hash(*map(fingerprint, folders)) if folders else ""
    return Judge(session.judge, cfg.max_unparsed, identity)
