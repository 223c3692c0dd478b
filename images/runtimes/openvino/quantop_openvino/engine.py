"""OpenVINO GenAI: models in OpenVINO's IR, with their tokenizer beside them."""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import openvino_genai
from quantop_serving.engine import ChatMessage, FinishReason, Output, PromptError, Sampling

from quantop_openvino import batching
from quantop_openvino.batching import Cancel, Event, Request
from quantop_openvino.text import PieceDecoder

CANCEL_SECONDS = 0.05
"""How long it may take until a client that left is noticed, while no token comes."""

log = logging.getLogger(__name__)


class OpenVinoEngine:
    """One model on the CPU, in a process of its own; what runs is computed together."""

    platform = "openvino"

    def __init__(self, model_dir: Path, threads: int, max_running: int) -> None:
        """Load the folder; `threads` is the CPU limit, `max_running` bounds the batch.

        Raises RuntimeError when OpenVINO cannot load it, OSError when config.json cannot be read.
        """
        described = json.loads((model_dir / "config.json").read_text())
        # Some architectures know no bound of their own; the server's settings have one.
        self.context_length: int = described.get("max_position_embeddings", sys.maxsize)
        self.vocabulary_size: int = described["vocab_size"]
        self._tokenizer = openvino_genai.Tokenizer(str(model_dir))
        self._numbers = itertools.count()
        self._events: dict[int, SimpleQueue[Event]] = {}
        self._sending = threading.Lock()
        # Not forked: threads run here already.
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        process = spawn.Process(
            target=batching.run, args=(theirs, model_dir, threads, max_running), daemon=True
        )
        process.start()
        theirs.close()
        try:
            problem = self._pipe.recv()
        except EOFError:
            process.join()
            problem = f"its process ended with {process.exitcode}"
        if problem:
            raise RuntimeError(problem)
        # At the server's end the process is ended too, which is no failure then.
        self._ending = threading.Event()
        atexit.register(self._ending.set)
        threading.Thread(target=self._deliver, daemon=True).start()

    def encode(self, text: str) -> list[int]:
        return self._encode(text, special=True)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        history = [{"role": each.role, "content": each.content} for each in messages]
        try:
            prompt = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        except RuntimeError as error:
            raise PromptError(f"The model's chat template refuses the messages: {error}") from error
        # A chat template writes the special tokens itself.
        return self._encode(prompt, special=False)

    def generate(self, prompt: Sequence[int], sampling: Sampling, output: Output) -> FinishReason:
        number = next(self._numbers)
        events: SimpleQueue[Event] = SimpleQueue()
        self._events[number] = events
        text = PieceDecoder(self._tokenizer.decode)
        try:
            self._send(Request(number, prompt, sampling))
            while not output.cancelled:
                try:
                    event = events.get(timeout=CANCEL_SECONDS)
                except Empty:
                    continue
                for token in event.tokens:
                    output.token(text.add(token))
                if event.error:
                    raise RuntimeError(event.error)
                if event.finish_reason:
                    return event.finish_reason
            self._send(Cancel(number))
            return FinishReason.STOP
        finally:
            del self._events[number]

    def _encode(self, text: str, *, special: bool) -> list[int]:
        tokens = self._tokenizer.encode(text, add_special_tokens=special).input_ids
        return [int(token) for token in tokens.data[0]]

    def _send(self, message: Request | Cancel) -> None:
        with self._sending:
            self._pipe.send(message)

    def _deliver(self) -> None:
        """Hand each event to the thread that waits for it, until there is nothing to come."""
        try:
            while True:
                for event in self._pipe.recv():
                    if (events := self._events.get(event.number)) is not None:
                        events.put(event)
        except (EOFError, OSError):
            if not self._ending.is_set():
                # Nothing can be answered any more, but a new container can.
                log.critical("the engine's process has ended")
                os._exit(1)
