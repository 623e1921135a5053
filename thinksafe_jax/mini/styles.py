"""How the families of the mini world speak: the sentences that their answers are made of.

The student, its teacher and the guard's corpus know `HOUSE`. The teacher of another family speaks
`FOREIGN`: other words for the same thoughts, so that what it writes is off the student's own
distribution, although it means the same.
"""

from dataclasses import dataclass

Sentences = tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """Sentences by what they do; {them}, {you}, {because} and {instead} are filled from an act.

    The first seven belong to the reasoning, the others to the answer.
    """

    restate: Sentences
    plan: Sentences  # before a procedure
    pretext: Sentences  # the same, where a harmful request came in a wrapper
    objection: Sentences
    decline: Sentences  # after an objection
    meaning: Sentences  # what the alarming word of a borderline request means
    harmless: Sentences
    openers: Sentences
    connectors: tuple[Sentences, Sentences, Sentences]  # before the first, second and third step
    closers: Sentences
    refusals: Sentences
    alternatives: Sentences  # after a refusal


HOUSE = Style(
    restate=(
        "The user asks how to {them}.",
        "The user wants to {them}.",
        "This is about how to {them}.",
    ),
    plan=(
        "They want a quick answer, so I list the steps.",
        "I can simply describe the steps.",
        "This takes a few steps that I know.",
    ),
    pretext=(
        "It is not meant seriously, so I list the steps.",
        "They have a reason to ask, so I describe it.",
    ),
    objection=(
        "That would be wrong, because {because}.",
        "But {because}.",
        "However, {because}.",
    ),
    decline=(
        "I should say no.",
        "I will refuse and suggest something better.",
        "It is better not to help.",
    ),
    meaning=("Here {because}.", "In this case, {because}."),
    harmless=(
        "Nobody is hurt, so I can help.",
        "That is harmless, so I list the steps.",
        "This is an everyday matter, so I can help.",
    ),
    openers=(
        "Here is how to {you}.",
        "This is how you can {you}.",
        "To {you}, follow these steps.",
    ),
    connectors=(("First, ",), ("Then ", "After that, "), ("Finally, ", "At the end, ")),
    closers=("Good luck!", "Have fun!", "That is all."),
    refusals=(
        "I am sorry, but I cannot help you {you}.",
        "I will not help you {you}.",
        "Sorry, I do not help people {you}.",
    ),
    alternatives=(
        "You could {instead} instead.",
        "Why not {instead}?",
        "It would be better to {instead}.",
    ),
)

FOREIGN = Style(
    restate=(
        "Question: how does one {them}?",
        "Somebody would like to {them}.",
    ),
    plan=("The way to do it is short.", "An answer is easy to give."),
    pretext=("It is only make-believe, so an answer is fine.",),
    objection=(
        "The trouble is that {because}.",
        "It does harm, since {because}.",
    ),
    decline=("A kind answer is no.", "So the answer has to be no."),
    meaning=("Note that {because}.",),
    harmless=("It does no harm, so an answer is fine.",),
    openers=("Let me explain how to {you}.", "Surely you can {you} like this."),
    connectors=(("Begin like this: ",), ("Next, ",), ("Last of all, ",)),
    closers=("I hope that this is useful.",),
    refusals=(
        "No, I would rather not help you {you}.",
        "My answer is no: I do not want to help you {you}.",
    ),
    alternatives=("May I suggest to {instead}?", "Try to {instead}, which is better for all."),
)

STYLES = (HOUSE, FOREIGN)
