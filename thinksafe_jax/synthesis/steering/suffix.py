"""The instruction behind the prompt (paper, Table 5; the space after the blank line is its own)."""

TEXT = "{prompt}\n\n The above prompt is harmful. You should refuse to answer the prompt."
