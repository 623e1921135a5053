"""Final answers of reasoning models: found in a text, compared, scored."""
