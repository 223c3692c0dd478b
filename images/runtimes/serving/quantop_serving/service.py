"""One model behind the routes: loading it, checking requests against it, queueing them."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from quantop_serving.engine import ChatMessage, Engine, PromptError, Sampling
from quantop_serving.errors import OVERLOADED, SERVER_ERROR, ApiError
from quantop_serving.metrics import Metrics
from quantop_serving.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest
from quantop_serving.scheduler import Generation, QueueFullError, Scheduler
from quantop_serving.settings import Settings

log = logging.getLogger(__name__)

COMPLETION_TOKENS = 16
"""OpenAI's default for `/v1/completions`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer."""

    engine: Engine
    scheduler: Scheduler
    context_length: int
    """Tokens that prompt and answer may have together."""
    since: int
    """Unix seconds."""

    @property
    def platform(self) -> str:
        """Name of the engine."""
        return self.engine.platform


class Answers(Protocol):
    """What is there once a model is loaded, whatever it does."""

    @property
    def platform(self) -> str:
        """Name of the engine."""

    @property
    def context_length(self) -> int:
        """Tokens that it takes at most."""

    @property
    def since(self) -> int:
        """When it was loaded, in Unix seconds."""


class Service(ABC):
    """Holds the one model of this server."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics

    @property
    @abstractmethod
    def loaded(self) -> Answers | None:
        """The model; None until it can answer."""

    @abstractmethod
    async def start(self) -> None:
        """Load the model in a thread, so that the health routes answer. Raises what that does."""

    @abstractmethod
    def stop(self) -> None:
        """Cancel whatever runs."""

    def tensors(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Inputs and outputs of the Open Inference Protocol, by its metadata."""
        # Text goes in and comes out by the OpenAI routes; no tensor route is offered.
        return [], []

    def check_name(self, name: str) -> None:
        """Raise a 404 unless this is the model's name."""
        if name != self.settings.model_name:
            raise ApiError(
                404,
                f"The model '{name}' does not exist here; this server has"
                f" '{self.settings.model_name}'.",
                param="model",
                code="model_not_found",
            )

    def loading(self) -> ApiError:
        """The error for who comes too early."""
        return ApiError(
            503, "The model is still loading.", kind=SERVER_ERROR, code="loading", retry_after=1
        )

    def queue_full(self) -> ApiError:
        """The error for who comes when too many wait."""
        return ApiError(
            429,
            f"{self.settings.max_running} requests run and {self.settings.max_waiting} wait"
            " already. Try again later.",
            kind=OVERLOADED,
            code="queue_full",
            retry_after=1,
        )


class ModelService(Service):
    """A model that generates text."""

    def __init__(self, settings: Settings, load: Callable[[], Engine], metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self._loaded: Loaded | None = None
        self._load = load

    @property
    def loaded(self) -> Loaded | None:
        return self._loaded

    async def start(self) -> None:
        begin = time.perf_counter()
        engine = await asyncio.to_thread(self._load)
        scheduler = Scheduler(
            engine,
            self.metrics,
            max_running=self.settings.max_running,
            max_waiting=self.settings.max_waiting,
        )
        context = min(engine.context_length, self.settings.max_context)
        self._loaded = Loaded(engine, scheduler, context, int(time.time()))
        log.info(
            "model %s loaded in %.2f s: %s, context of %d tokens, %d threads",
            self.settings.model_name,
            time.perf_counter() - begin,
            engine.platform,
            context,
            self.settings.threads,
        )

    def stop(self) -> None:
        if self._loaded is not None:
            self._loaded.scheduler.close()

    async def complete(self, request: CompletionRequest) -> Generation:
        """Admit a request for a completion. Raises ApiError."""
        loaded = self._ready(request)
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        if isinstance(prompt, str):
            tokens = await asyncio.to_thread(loaded.engine.encode, prompt)
        else:
            tokens = [token for token in request.prompt if isinstance(token, int)]
        if not tokens:
            raise ApiError(400, "'prompt' has no token.", param="prompt")
        if max(tokens) >= loaded.engine.vocabulary_size:
            raise ApiError(400, f"'prompt': the model has no token {max(tokens)}.", param="prompt")
        wanted = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        return self._submit(loaded, request, tokens, wanted, param="prompt")

    async def chat(self, request: ChatCompletionRequest) -> Generation:
        """Admit a request for the answer in a conversation. Raises ApiError."""
        loaded = self._ready(request)
        messages = [ChatMessage(message.role, message.text) for message in request.messages]
        try:
            tokens = await asyncio.to_thread(loaded.engine.encode_chat, messages)
        except PromptError as error:
            raise ApiError(400, str(error), param="messages") from error
        return self._submit(loaded, request, tokens, request.answer_tokens, param="messages")

    def _ready(self, request: GenerationRequest) -> Loaded:
        self.check_name(request.model)
        if self._loaded is None:
            raise self.loading()
        return self._loaded

    def _submit(
        self,
        loaded: Loaded,
        request: GenerationRequest,
        prompt: Sequence[int],
        wanted: int | None,
        *,
        param: str,
    ) -> Generation:
        room = loaded.context_length - len(prompt)
        if room < (wanted or 1):
            asked = "an answer" if wanted is None else f"{wanted} tokens of answer"
            raise ApiError(
                400,
                f"The context here is {loaded.context_length} tokens, but the prompt has"
                f" {len(prompt)} and {asked} was asked for. Shorten one of them.",
                param=param,
                code="context_length_exceeded",
            )
        sampling = Sampling(
            max_tokens=room if wanted is None else wanted,
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            ignore_eos=request.ignore_eos,
        )
        try:
            return loaded.scheduler.submit(prompt, sampling)
        except QueueFullError as error:
            raise self.queue_full() from error
