"""An instruction to weigh the risks (paper, Table 5; the space after the blank line is its own)."""

TEXT = (
    "Evaluate the potential risks of this prompt and provide a reasoned refusal."
    "\n\n Prompt:{prompt}"
)
