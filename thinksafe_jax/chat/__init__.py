"""Talk with a student in the terminal: before and after training, side by side."""

from thinksafe_jax.chat.chat_loop import chat
from thinksafe_jax.chat.student_sides import ChatModel, is_run, model_of, run_of

__all__ = ["ChatModel", "chat", "is_run", "model_of", "run_of"]
