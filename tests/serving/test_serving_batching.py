"""An engine in a process of its own: what runs is computed together, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from quantop_serving.engine import Engine, FinishReason, Sampling

from tests.serving.fake_batch import DEADLY, REFUSED, FakeBatch, FakeBatchingEngine, no_batch


@dataclass
class Collected:
    """An output that keeps what it is given."""

    enough: Callable[[list[str]], bool] = lambda pieces: False
    pieces: list[str] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        return self.enough(self.pieces)

    def token(self, text: str) -> None:
        self.pieces.append(text)
        self.came.set()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return FakeBatchingEngine(FakeBatch)


def test_requests_that_run_together_share_steps_and_get_their_own_answers(engine: Engine) -> None:
    outputs = [Collected() for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        ended = threads.map(
            lambda output: engine.generate([1], Sampling(max_tokens=40), output), outputs
        )
        assert list(ended) == [FinishReason.LENGTH] * 3
    assert [len(output.pieces) for output in outputs] == [40] * 3
    assert all("3 " in output.pieces for output in outputs)


def test_who_leaves_makes_room_for_the_others(engine: Engine) -> None:
    left = Collected(enough=lambda pieces: len(pieces) > 3)
    stays = Collected(enough=lambda pieces: pieces[-5:] == ["1 "] * 5)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(engine.generate, [1], Sampling(max_tokens=10_000), left)
        assert left.came.wait(10)
        second = threads.submit(engine.generate, [1], Sampling(max_tokens=10_000), stays)
        assert [each.result(timeout=10) for each in (first, second)] == [FinishReason.STOP] * 2
    assert len(stays.pieces) < 10_000


def test_a_request_that_fails_fails_alone(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="the fake batch refuses it"):
        engine.generate([REFUSED], Sampling(max_tokens=1), Collected())
    assert engine.generate([1], Sampling(max_tokens=1), Collected()) == FinishReason.LENGTH


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'lm_head'"):
        FakeBatchingEngine(no_batch)


def test_a_server_whose_engine_has_died_ends() -> None:
    """Its container is started anew; a server that cannot answer would stay."""
    program = f"""
from tests.serving.fake_batch import FakeBatch, FakeBatchingEngine
from tests.serving.test_serving_batching import Collected, Sampling
if __name__ == "__main__":
    engine = FakeBatchingEngine(FakeBatch)
    engine.generate([{DEADLY}], Sampling(max_tokens=1), Collected())
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert b"the engine's process has ended" in done.stderr
