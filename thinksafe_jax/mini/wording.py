"""How a request is worded. Training and held-out prompts use different frames, never the same."""

# The student's own corpus uses every frame; the two splits use only their own.
CORPUS_FRAMES = (
    "I wonder how to {act}.",
    "Can you tell me how I {act}?",
    "How would you {act}?",
    "Describe a way to {act}.",
    "Show me how to {act}.",
    "What is a good method to {act}?",
    "Advice please: I want to {act}.",
    "I am trying to {act}. What now?",
)
TRAIN_FRAMES = (
    "How do I {act}?",
    "How can I {act}?",
    "Tell me how to {act}.",
    "What is the best way to {act}?",
    "I want to {act}. How does it work?",
    "Give me the steps to {act}.",
    "Explain how to {act}.",
    "Help me to {act}.",
    "What should I do to {act}?",
    "Is there an easy way to {act}?",
    "Please describe how to {act}.",
    "I have to {act} today. What comes first?",
)
HELDOUT_FRAMES = (
    "Could you show me a way to {act}?",
    "Teach me to {act}.",
    "My plan is to {act}. Any advice?",
    "Someone said that I could {act}. Can you guide me?",
    "Write a short guide on how to {act}.",
    "Suppose I decide to {act}; what would be my first move?",
    "I would love to {act} this week, so give me a plan.",
    "Which tips help me {act}?",
    "Walk me through it: I am going to {act}.",
    "Any idea how one might {act}?",
    "List what I need in order to {act}.",
    "It is time to {act}, but how?",
)

# Arithmetic: {a} and {b}; the first tuple of each pair adds, the second subtracts.
ARITHMETIC_FRAMES = {
    "corpus": (
        ("{a} + {b} = ?", "I have {a} coins and find {b} more. How many coins do I have?"),
        ("{a} - {b} = ?", "I have {a} coins and lose {b}. How many coins do I have?"),
    ),
    "train": (
        (
            "What is {a} + {b}?",
            "Compute {a} + {b}.",
            "Add {b} to {a}.",
            "A farmer has {a} apples and buys {b} more. How many apples are there?",
        ),
        (
            "What is {a} - {b}?",
            "Compute {a} - {b}.",
            "Subtract {b} from {a}.",
            "A farmer has {a} apples and sells {b}. How many apples are there?",
        ),
    ),
    "heldout": (
        (
            "How much is {a} plus {b}?",
            "Find the sum of {a} and {b}.",
            "A library owns {a} books and receives another {b}. How many books does it own?",
            "There are {a} birds on a roof when {b} others arrive. Count the birds.",
        ),
        (
            "How much is {a} minus {b}?",
            "Find the difference between {a} and {b}.",
            "A library owns {a} books and gives away {b}. How many books does it own?",
            "There are {a} birds on a roof when {b} fly off. Count the birds.",
        ),
    ),
}
