"""Ollama with one artifact in its store, and the server that stands before it."""
