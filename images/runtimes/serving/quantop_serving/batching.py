"""Engines that compute the requests which run together: in a process of their own, driven through
a pipe.

Together they share each step, and so the reading of the weights. A step keeps the GIL: in the
server's process each would stop the event loop, which answers the liveness probe, for as long as it
takes to read a piece of prompt.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Protocol

from quantop_serving.engine import FinishReason, Output, Sampling
from quantop_serving.pieces import PieceDecoder

CANCEL_SECONDS = 0.05
"""How long it may take until a client that left is noticed, while no token comes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """Generate behind a prompt; `number` names the request from now on."""

    number: int
    prompt: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody wants the rest of a request, which may have ended already."""

    number: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a step brought one request: tokens, and how it ended if it did."""

    number: int
    tokens: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    error: str = ""


class Batch(Protocol):
    """A loaded model with the requests that run on it, for one thread."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute and nothing to free."""

    def add(self, request: Request) -> Event | None:
        """Take a request; an event if it failed at once."""

    def cancel(self, number: int) -> None:
        """End a request, unless it has ended."""

    def step(self) -> list[Event]:
        """Compute the next token of each request, or a piece of a prompt. What it raises ends the
        process."""


def run(pipe: Connection, load: Callable[[], Batch]) -> None:
    """Load the model, send an empty string or what went wrong, then compute what is asked for.

    The pipe brings Requests and Cancels and takes lists of Events; its end ends the process.
    """
    # Ctrl+C in a terminal goes to both processes: the server says when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        batch = load()
    except Exception as error:  # The engine's own kinds of error are not known here.
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    try:
        while True:
            events: list[Event] = []
            # Wait for a message only when there is nothing else to do.
            while (batch.idle and not events) or pipe.poll():
                message = pipe.recv()
                if isinstance(message, Cancel):
                    batch.cancel(message.number)
                elif failed := batch.add(message):
                    events.append(failed)
            if not batch.idle:
                events += batch.step()
            if events:
                pipe.send(events)
    except (EOFError, BrokenPipeError):
        return


class BatchingEngine(ABC):
    """An engine whose model runs in the other process; the tokenizer is what it adds."""

    def __init__(self, load: Callable[[], Batch]) -> None:
        """Start the process, where `load`, which can be pickled, loads the model.

        Raises RuntimeError when the model cannot be loaded.
        """
        self._numbers = itertools.count()
        self._events: dict[int, SimpleQueue[Event]] = {}
        self._sending = threading.Lock()
        # Not forked: threads run here already.
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=run, args=(theirs, load), daemon=True)
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

    @abstractmethod
    def decode(self, tokens: list[int]) -> str:
        """Turn tokens into text, without those that are only signs for the model."""

    def generate(self, prompt: Sequence[int], sampling: Sampling, output: Output) -> FinishReason:
        """Do what `Engine.generate` says. Raises RuntimeError when the engine fails."""
        number = next(self._numbers)
        events: SimpleQueue[Event] = SimpleQueue()
        self._events[number] = events
        text = PieceDecoder(self.decode)
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
