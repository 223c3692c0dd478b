"""A registry of Ollama's kind that is a view of a cluster's models: docs/guides/ollama-pull.md."""
