"""Options of the engine, as the engine itself shows them, and a draft model that it really asks."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from e2e.kubectl import Object, conditions
from e2e.scenarios.team import Team, quantized_model
from e2e.scenarios.waiting import until

PROMPT = "The function returns"
CONTEXT = 512
DRAFTED = "llamacpp:spec_decode_num_draft_tokens_total"
ACCEPTED = "llamacpp:spec_decode_num_accepted_tokens_total"


def completion(model: Object, **asked: object) -> httpx.Response:
    """What the model's Service answers to a prompt, greedily."""
    endpoint = model["status"]["endpoint"]
    body = {"model": endpoint["modelName"], "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    return httpx.post(f"{endpoint['url']}/v1/completions", json=body | asked, timeout=120)


def probabilities(model: Object) -> list[float]:
    """The log probabilities of the tokens that it answers with."""
    answer = completion(model, logprobs=1).json()
    return [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]]


def counter(model: Object, name: str) -> float:
    """A metric of the model's one pod, whatever its labels."""
    text = httpx.get(f"{model['status']['endpoint']['url']}/metrics", timeout=30).text
    lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return float(next(lines).split()[-1])


def artifact_key(model: Object) -> str:
    return str(model["status"]["artifact"]["key"])


def drafts(team: Team, name: str) -> set[str]:
    """The artifact keys of the draft models that all serving pods of a model were started with."""
    return {
        pod["metadata"]["annotations"].get("quantop.dev/draft-artifact-key", "")
        for pod in team.pods(name, "server")
    }


def test_options_reach_the_engine_by_a_rollout(team: Team) -> None:
    name = team.apply(quantized_model("tuned"))
    model = team.ready(name)
    key, plain = artifact_key(model), probabilities(model)
    assert probabilities(model) == plain, "else a difference would mean nothing"
    options = {"maxModelLength": CONTEXT, "maxConcurrentRequests": 2, "kvCacheType": "q4_0"}
    team.patch(name, {"serving": {"engine": options}})
    team.ready(name)
    until("the old pods are gone", lambda: len(team.pods(name, "server")) == 1, timeout=300)
    model = team.ready(name)

    assert artifact_key(model) == key
    (pod,) = team.pods(name, "server")
    log = team.kubectl.logs(team.namespace, pod["metadata"]["name"], "engine", lines=200)
    assert f"n_slots = 2, n_ctx_slot = {CONTEXT}" in log
    refused = completion(model, prompt=PROMPT * CONTEXT)
    assert refused.status_code == 400
    assert f"exceeds the available context size ({CONTEXT} tokens)" in refused.text
    assert probabilities(model) != plain, "keys and values of four bits change what is computed"
    with ThreadPoolExecutor(4) as clients:
        asked = [
            clients.submit(completion, model, max_tokens=200, ignore_eos=True) for _ in range(4)
        ]
        waited = until(
            "a third waits", lambda: counter(model, "llamacpp:requests_deferred"), 60, every=0.02
        )
    assert {each.result().status_code for each in asked} == {200}
    assert waited <= 2
    assert 1.5 < counter(model, "llamacpp:n_busy_slots_per_decode") <= 2, "two at a time"


@pytest.mark.parametrize(
    ("options", "reason", "said"),
    [
        (
            {"tensorParallelSize": 2},
            "OptionNotSupported",
            "possible: draftModel, kvCacheType, maxConcurrentRequests, maxModelLength, prefixCach",
        ),
        ({"kvCacheType": "fp8"}, "OptionValueNotSupported", "possible: bf16, f16, f32, iq4_nl, q4"),
    ],
)
def test_what_the_engine_lacks_is_refused_before_anything_is_made(
    team: Team, options: dict[str, object], reason: str, said: str
) -> None:
    name = team.apply(quantized_model("beyond", serving={"engine": options}))
    stalled = team.stalled(name)
    assert stalled["reason"] == reason
    assert said in stalled["message"]
    assert team.kubectl.find("jobs", team.namespace) == []
    assert team.kubectl.find("pods", team.namespace) == []


def test_a_draft_model_guesses_for_a_larger_one(team: Team) -> None:
    small = quantized_model(
        "small", ("GGUF", "Q4_K_M"), serving=None, storage={"deletionPolicy": "Delete"}
    )
    team.apply(small)
    name = team.apply(quantized_model("plain"))
    plain = team.ready(name)
    assert counter(plain, DRAFTED) == 0
    expected = completion(plain).json()["choices"][0]["text"]

    drafting = quantized_model("drafting", serving={"engine": {"draftModel": {"name": "small"}}})
    model = team.ready(team.apply(drafting))
    answer = completion(model).json()
    assert answer["choices"][0]["text"] == expected, "a draft changes the speed alone"
    assert 0 < answer["timings"]["draft_n_accepted"] <= answer["timings"]["draft_n"]
    assert 0 < counter(model, ACCEPTED) <= counter(model, DRAFTED)
    first = artifact_key(team.ready("small"))
    assert drafts(team, "drafting") == {first}

    team.patch("small", {"quantization": {"precision": "Q5_K_M"}})
    second = artifact_key(team.ready("small"))
    assert second != first
    until("the new draft serves alone", lambda: drafts(team, "drafting") == {second}, timeout=300)
    model = team.ready("drafting")
    assert completion(model).json()["timings"]["draft_n"] > 0

    # What new pods need stays while they need it.
    team.kubectl.run("delete", "quantizedmodel", "small", "-n", team.namespace, "--wait=false")
    assert team.stalled("small")["reason"] == "DraftModelInUse"
    (pod,) = team.pods("drafting", "server")
    team.kubectl.delete("pod", pod["metadata"]["name"], team.namespace)
    until(
        "another pod answers",
        lambda: (
            conditions(team.model("drafting"))["Serving"]["reason"] == "Serving"
            and pod["metadata"]["uid"]
            not in {each["metadata"]["uid"] for each in team.pods("drafting", "server")}
        ),
        timeout=300,
    )
    assert completion(team.ready("drafting")).json()["timings"]["draft_n"] > 0
    team.patch("drafting", {"serving": {"engine": None}})
    until(
        "the draft is gone",
        lambda: team.kubectl.get("quantizedmodel", "small", team.namespace) is None,
        timeout=300,
    )
    until("it serves without", lambda: drafts(team, "drafting") == {""}, timeout=300)
    assert "draft_n" not in completion(team.ready("drafting")).json()["timings"]


@pytest.mark.slow
def test_vllm_asks_its_draft_model(team: Team) -> None:
    recipe = ("CompressedTensors", "W4A16")
    rounded = {"method": "RTN"}
    team.apply(quantized_model("small", recipe, quantization=rounded, serving=None))
    serving = {"engine": {"draftModel": {"name": "small"}, "maxModelLength": CONTEXT}}
    served = quantized_model("drafting", recipe, quantization=rounded, serving=serving)
    model = team.ready(team.apply(served), timeout=1800)
    assert completion(model).json()["choices"][0]["text"]
    assert counter(model, "vllm:spec_decode_num_accepted_tokens_total") > 0
    refused = completion(model, prompt=PROMPT * CONTEXT)
    assert refused.status_code == 400
    assert f"maximum context length is {CONTEXT}" in refused.text
