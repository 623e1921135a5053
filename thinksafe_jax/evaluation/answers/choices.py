r"""The letter of a multiple-choice answer, in every usual dress, and from no other sentence.

`B`, `(B)`, `**B**`, `\boxed{\textrm{(b)}}`, `option B`, `B) 3 m/s` and "B is correct" are choices;
"A good answer", "I think" and `E = mc^2` are not.
"""

import re

from thinksafe_jax.evaluation.answers.extract import answer_text, last_box

_DRESS = re.compile(
    r"\\(?:text|textbf|textrm|textsf|textit|texttt|mathrm|mathbf|mathsf|mathit|mathtt|boldsymbol|bm|"
    r"mbox|emph|underline|operatorname)\s*\{([^{}]*)\}"
)
_NOISE = re.compile(r"\\[,;:! ]|\\left(?![a-z])|\\right(?![a-z])|\\[()\[\]]|[$*_`\"'{}]|~")
_NAMED = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?"
    r"(?:option|choice|answer|letter)\s*:?\s*)?"
)
# no letter of a word, a formula (E = mc^2, D^2, A + B) or a pair (A and B)
_ENDS = (
    r"(?![A-Za-z0-9_^=+*/'<>&|-])(?!\s*[=+*/^<>&|])(?!\s-\s?[A-Za-z0-9]\b)"
    r"(?!\s*(?:,|/|;|\bor\b|\band\b|\bnor\b)\s*\(?[A-J]\b(?![a-z]))"
)
_LETTER = re.compile(rf"{_NAMED}[(\[]?\s*([A-J])\s*[)\]]?{_ENDS}", re.IGNORECASE)
# "A good answer", "I think": a capital that begins a sentence, and not a choice with its text
_WORD_AFTER = re.compile(r"\s+(?!is\b|was\b|because\b|since\b|as\b|for\b|with\b|from\b)[a-z]{2,}")
_VERB_AFTER_I = re.compile(r"\s*[a-z']")
_STATED = re.compile(
    r"(?:\b(?:answers?|options?|choices?|letter)\b(?:\s+(?:here|to this question))?\s*"
    r"(?::|=|\b(?:is|was|are|would be|should be|must be|has to be|will be)\b|->|\u2192)"
    r"|####|\b(?:i|we)(?:'d|'ll| would| will)?\s+(?:choose|chose|select|pick|go with)\b"
    r"|\b(?:choose|select|pick)\s+(?=option|\())"
    r"\s*:?\s*(?:clearly\s+|therefore\s+|thus\s+|indeed\s+|most likely\s+|then\s+)?",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    rf"(?:^|[\s(\[.,;:]){_NAMED}[(\[]?\s*([A-J])\s*[)\]]?"
    r"(?:\s*[):.][^\n.]{0,80})?\s+(?:is|must be|seems|would be)\s+"
    r"(?:therefore\s+|clearly\s+|also\s+)?(?:the\s+)?(?:only\s+|most\s+)?(?:correct|right|best|true|accurate|answer)\b",
    re.IGNORECASE,
)
_LONGEST = 400  # characters that are looked at behind "the answer is"
_ALONE = re.compile(
    rf"(?:so|thus|therefore|hence|#+)?[\s,:]*{_NAMED}[(\[]?([A-J])[)\]]?[.!]?", re.I
)


def extract_choice(response: str) -> str | None:
    """The letter: in the last box, else the one that is stated last, else alone on the last line.

    Returns:
        A capital A to J; None where no letter, or more than one, is given as the answer.
    """
    text = answer_text(response)
    if text is None:
        return None
    if (box := last_box(text)) != "":
        return None if box is None else _choice(box, boxed=True)
    return _stated(text) or _last_line(text)


def _stated(text: str) -> str | None:
    """The last choice that a sentence gives as the answer."""
    letters: dict[int, str] = {}
    for match in _STATED.finditer(text):
        line = text[match.end() : match.end() + _LONGEST].lstrip(" \n*$:").partition("\n")[0]
        if letter := _choice(line, boxed=False):
            letters[match.end()] = letter
    for match in _CONFIRMED.finditer(_undressed(text)):
        letter = match.group(1)
        if letter.isupper():
            letters[match.end()] = letter
    return letters[max(letters)] if letters else None


def _choice(text: str, *, boxed: bool) -> str | None:
    """The letter that a text begins with, if that letter is the answer.

    Args:
        boxed: nothing else is expected, so the letter may be a small one.
    """
    text = _undressed(text).strip()
    match = _LETTER.match(text)
    if match is None:
        return None
    letter, rest = match.group(1), text[match.end() :]
    bare = text[match.end(1) :] == rest and match.start(1) == 0  # no bracket, no "option"
    if letter.islower() and not (boxed and not rest.strip(" .")) and bare:
        return None
    if bare and (_WORD_AFTER.match(rest) or (letter == "I" and _VERB_AFTER_I.match(rest))):
        return None
    return letter.upper()


def _last_line(text: str) -> str | None:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        return None
    line = _undressed(lines[-1]).strip()
    alone = _ALONE.fullmatch(line)
    if alone:
        return alone.group(1).upper() if alone.group(1).isupper() or len(line) <= 3 else None
    listed = re.match(r"[(\[]?([A-J])[)\].:]\s+\S", line)  # "B) 3 m/s" with nothing before it
    return listed.group(1) if listed and len(lines) == 1 else None


def _undressed(text: str) -> str:
    """Text without LaTeX's wrappers, spacing and brackets of mathematics, and without emphasis."""
    before = None
    while before != text:
        before, text = text, _DRESS.sub(r"\1", text)
    return _NOISE.sub("", text)
