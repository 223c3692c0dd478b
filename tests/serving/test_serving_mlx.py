"""The server on mlx-lm, with a real model.

mlx-lm is in the runtime's image and not in this environment: these tests run where
QUANTOP_MLX_PYTHON names an interpreter that has it, as `make test-toolchains` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.test_serving_drain import free_ports

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("QUANTOP_MLX_PYTHON", "")
PROMPTS = ("The function returns", "A list is", "If *value* is not a string, then", "def")
REFERENCE = """
import json, sys
from pathlib import Path
from mlx_lm.generate import stream_generate
from mlx_lm.utils import load_model, load_tokenizer
model, _ = load_model(Path(sys.argv[1]))
tokenizer = load_tokenizer(Path(sys.argv[1]))
for prompt in sys.argv[2:]:
    made = [each.token for each in stream_generate(model, tokenizer, prompt, max_tokens=24)]
    print(json.dumps(tokenizer.decode(made, skip_special_tokens=True)))
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="QUANTOP_MLX_PYTHON is not set")


def mlx(*arguments: str, **variables: str) -> list[str]:
    """Run Python where mlx-lm is; the lines that it prints."""
    environment = {**os.environ, "MLX_DISABLE_COMPILE": "1", **variables}
    done = subprocess.run(
        [PYTHON, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module", params=["mxfp4", "4bit"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Quantizer makes."""
    work = tmp_path_factory.mktemp("work")
    mlx(
        *("-m", "quantop_adapters.mlx", "quantize"),
        PYTHONPATH=str(ROOT / "images/quantizers/core"),
        WORK_DIR=str(work),
        SOURCE_DIR=str(ROOT / "e2e/models/tiny-llama"),
        MODEL_NAME="m",
        FORMAT="MLX",
        PRECISION=request.param,
        TERMINATION_MESSAGE_PATH=str(work / "termination"),
    )
    return work / "artifact"


@dataclass
class Running:
    """A server, as its container would have it."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI

    async def answer(self, prompt: str, **asked: Any) -> str:
        asked = {"max_tokens": 24, "temperature": 0, **asked}
        completion = await self.openai.completions.create(model="m", prompt=prompt, **asked)
        return str(completion.choices[0].text)

    async def until_running(self, count: int) -> None:
        """Wait until the engine has so many requests, 10 s at most."""
        for _ in range(200):
            lines = (await self.http.get("/metrics")).text.splitlines()
            (line,) = (x for x in lines if x.startswith("quantop_serving_requests_running{"))
            if float(line.rpartition(" ")[2]) == count:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"it never were {count} requests")


@pytest.fixture
async def server(artifact: Path, tmp_path: Path) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    # No compiler on the path and nothing to write to, as in the image.
    environment = {
        "PATH": "/nowhere",
        "HOME": "/nowhere",
        "HF_HUB_OFFLINE": "1",
        "MLX_DISABLE_COMPILE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT / "images/runtimes/mlx"),
        "MODEL_DIR": str(artifact),
        "MODEL_NAME": "m",
        "PORT": str(port),
        "QUANTOP_DRAIN_FILE": str(tmp_path / "draining"),
    }
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-m", "quantop_mlx", "--drain-linger=0"), env=environment, stderr=file
        )
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        try:
            for _ in range(600):
                with suppress(httpx.TransportError):
                    if (await http.get("/v2/health/ready")).status_code == 200:
                        break
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
            yield Running(process, http, client)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def test_greedy_answers_are_those_of_mlx_lm_alone_and_together(
    server: Running, artifact: Path
) -> None:
    expected = [json.loads(line) for line in mlx("-c", REFERENCE, str(artifact), *PROMPTS)]
    assert [await server.answer(prompt) for prompt in PROMPTS] == expected
    assert await asyncio.gather(*map(server.answer, PROMPTS)) == expected


async def test_a_seed_gives_the_same_text_again_whoever_else_asks(server: Running) -> None:
    sampled = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    alone = await server.answer(PROMPTS[0], **sampled)
    together = await asyncio.gather(
        server.answer(PROMPTS[0], **sampled),
        server.answer(PROMPTS[0], **{**sampled, "seed": 8}),
        server.answer(PROMPTS[0], **sampled),
    )
    assert together[0] == together[2] == alone
    assert together[1] != alone
    assert alone != await server.answer(PROMPTS[0])


async def test_a_stream_is_the_answer_up_to_its_stop_sequence(server: Running) -> None:
    whole = await server.answer(PROMPTS[0])
    stop = whole[8:11]
    stream = await server.openai.completions.create(
        model="m", prompt=PROMPTS[0], max_tokens=24, temperature=0, stop=stop, stream=True
    )
    choices = [chunk.choices[0] async for chunk in stream if chunk.choices]
    assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"


async def test_a_conversation_is_laid_out_by_the_models_template(server: Running) -> None:
    asked = {"model": "m", "temperature": 0, "max_tokens": 8}
    chat = await server.http.post(
        "/v1/chat/completions", json={**asked, "messages": [{"role": "user", "content": "A list"}]}
    )
    template = "<|user|>\nA list<|end|>\n<|assistant|>\n"
    text = await server.http.post("/v1/completions", json={**asked, "prompt": template})
    assert chat.json()["choices"][0]["message"]["content"] == text.json()["choices"][0]["text"]
    assert chat.json()["usage"] == text.json()["usage"]


async def test_a_prompt_and_answer_beyond_the_models_length_are_refused(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="The context here is 2048 tokens"):
        await server.answer(PROMPTS[0], max_tokens=2048)


async def test_while_a_long_prompt_is_read_the_probes_answer_and_its_client_may_leave(
    server: Running,
) -> None:
    prompt = (ROOT / "e2e/models/evaluation.txt").read_text()[:5000]
    asked = asyncio.create_task(server.answer(prompt))
    await server.until_running(1)
    begin = time.monotonic()
    for _ in range(10):
        assert (await server.http.get("/v2/health/live")).status_code == 200
    assert time.monotonic() - begin < 2
    assert not asked.done()
    asked.cancel()
    await server.until_running(0)
    assert await server.answer(PROMPTS[0], max_tokens=4)


async def test_sigterm_lets_a_stream_end_and_then_the_server_does(server: Running) -> None:
    stream = await server.openai.completions.create(
        model="m", prompt=PROMPTS[0], max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)
    server.process.send_signal(signal.SIGTERM)
    rest = [chunk async for chunk in chunks]
    assert rest[-1].choices[0].finish_reason == "length"
    assert len(rest) > 50
    assert await asyncio.wait_for(server.process.wait(), 30) == 0
