"""An HTTP server for inference engines that come as a library without one: OpenAI's API for those
that generate text, the Open Inference Protocol v2 for those that read it.

The package knows no engine: `engine.py` says what it asks of one. Each image adds its engine as a
package of its own, whose `__main__` calls `serve`.
"""

__version__ = "0.1.0"
