"""An OpenAI-compatible HTTP server for inference engines that come as a library without one.

The package knows no engine: `engine.py` says what it asks of one, `engines/` holds those there are.
"""

__version__ = "0.1.0"
