"""No steering: the prompt as it is. Rejection sampling asks so (paper 5.1), benign prompts too."""

TEXT = "{prompt}"
