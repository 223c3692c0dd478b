"""Asks a model's endpoint, with the official ``openai`` client."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

from openai import OpenAI

from e2e.kubectl import Object

ANSWER_TOKENS = 24


def ask(base_url: str, model: str, prompt: str) -> str:
    """The model's greedy continuation of a prompt, of at most ANSWER_TOKENS tokens.

    Raises:
        openai.OpenAIError: the endpoint did not answer.
    """
    client = OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=2, timeout=120)
    done = client.completions.create(
        model=model, prompt=prompt, max_tokens=ANSWER_TOKENS, temperature=0
    )
    return done.choices[0].text


def ask_in_chat(base_url: str, model: str, question: str) -> str:
    """The model's greedy answer in a conversation, of at most ANSWER_TOKENS tokens.

    Raises:
        openai.OpenAIError: the endpoint did not answer.
    """
    client = OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=2, timeout=120)
    done = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=ANSWER_TOKENS,
        temperature=0,
    )
    return done.choices[0].message.content or ""


@contextlib.contextmanager
def reach(model: Object) -> Iterator[str]:
    """A base URL of a Ready object's Service that works from here: its DNS name where that
    resolves (inside the local cluster's network), a port-forward where it does not."""
    url: str = model["status"]["endpoint"]["url"].rstrip("/").removesuffix("/v1")
    host = urlsplit(url).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        with _forwarded(model["metadata"]["namespace"], model["metadata"]["name"]) as port:
            yield f"http://127.0.0.1:{port}"
    else:
        yield url


@contextlib.contextmanager
def _forwarded(namespace: str, service: str) -> Iterator[int]:
    """A local port that leads to port 80 of a Service, while the context lasts."""
    command = ["kubectl", "port-forward", f"--namespace={namespace}", f"service/{service}", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarder:
        try:
            assert forwarder.stdout is not None
            line = forwarder.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+) ->", line)
            if found is None:
                raise ConnectionError(f"kubectl port-forward to {namespace}/{service} failed")
            yield int(found.group(1))
        finally:
            forwarder.terminate()
