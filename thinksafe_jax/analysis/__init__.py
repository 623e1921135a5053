"""Measurements on data and models: perplexity, projection, shift, lengths."""
