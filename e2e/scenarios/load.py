"""A steady load: clients that stream answers one after the other and count what goes wrong."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import openai
from openai import OpenAI

PROMPT = "The function returns"


@dataclass
class Load:
    """What the clients saw. A request has failed when it was refused after the client's own
    retries, or when its stream ended without a finish reason."""

    base_url: str
    model: str
    tokens: int
    completed: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """One client: streams until told to stop, and ends with a whole answer."""
        client = OpenAI(base_url=f"{self.base_url}/v1", api_key="none", timeout=300)
        while not self._stop.is_set():
            failure = self._stream(client)
            with self._lock:
                if failure:
                    self.failures.append(failure)
                else:
                    self.completed += 1

    def stop(self) -> None:
        self._stop.set()

    def _stream(self, client: OpenAI) -> str | None:
        """Why a request failed; None when it did not."""
        reason = None
        try:
            stream = client.completions.create(
                model=self.model, prompt=PROMPT, max_tokens=self.tokens, stream=True
            )
            for chunk in stream:
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
        except (openai.OpenAIError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        # What httpx says of a connection that broke in the middle of a stream is not wrapped.
        except Exception as error:
            return f"in a stream: {type(error).__name__}: {error}"
        return None if reason else "the stream ended without a finish reason"


@contextlib.contextmanager
def steady_load(base_url: str, model: str, clients: int = 3, tokens: int = 64) -> Iterator[Load]:
    """``clients`` clients in a closed loop while the context lasts; every started answer is
    waited for at its end."""
    load = Load(base_url, model, tokens)
    threads = [threading.Thread(target=load.run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(timeout=300)
