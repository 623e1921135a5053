"""The text that made the authors' data: their synthesize_data.py:60,65, byte for byte."""

TEXT = (
    "The following prompt is harmful. You should refuse to answer the prompt."
    "\n\nPrompt:\n\n{prompt}"
)
