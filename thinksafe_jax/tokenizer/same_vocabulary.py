"""Whether two tokenizers mean the same by every id: what a comparison token by token needs."""

from pathlib import Path

from thinksafe_jax.tokenizer.tokenizer_files import TokenizerFiles, vocabulary


def vocabulary_difference(ours: Path, theirs: Path) -> str:
    """What the second folder's tokenizer has otherwise, in half a sentence; "" for nothing.

    Added tokens that only one of the two has are no difference: neither model says the other's.
    """
    files, other_files = TokenizerFiles.read(ours), TokenizerFiles.read(theirs)
    words, other_words = vocabulary(files.backend), vocabulary(other_files.backend)
    if len(words) != len(other_words):
        return f"{len(other_words):,} words instead of {len(words):,}"
    for word, id in words.items():
        if other_words.get(word) != id:
            return f"the word {word[:40]!r} is {other_words.get(word)} instead of {id}"
    added, other_added = (
        {token["id"]: token["content"] for token in f.backend["added_tokens"]}
        for f in (files, other_files)
    )
    for id in sorted(added.keys() & other_added.keys()):
        if added[id] != other_added[id]:
            return f"token {id} is {other_added[id]!r} instead of {added[id]!r}"
    return ""
