"""Commands that live outside cli.py; each module adds its own to the application."""
