"""Chatwright: make a chat model out of a pretrained language model, the way Llama 2-Chat was made."""

__version__ = "0.1.0"
