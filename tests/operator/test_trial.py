"""A trial before the rollout: its figures, its limits, and what it decides for ``Auto``."""

import time
import urllib.request
from typing import Any

import pytest
from quantop.contract import TASK_VARIABLE, ReportTask

from tests.operator import objects
from tests.operator.conftest import Cluster, Operator
from tests.operator.fake_node import Crashed, FakeNode, Runs, Waits, refuses
from tests.operator.test_auto import (
    MIB,
    auto,
    candidate,
    conversions,
    node,
    settled,
    states,
)

__all__ = ["node"]
EVALUATION = {"uri": "s3://texts/evaluation.txt"}
MEMORY = {"auto": {"minimize": "Memory"}}


def limited(**limits: Any) -> dict[str, Any]:
    return {"evaluation": EVALUATION, **limits}


def trials(cluster: Cluster, namespace: str) -> dict[str, dict[str, Any]]:
    """The trial Jobs that there are, by name."""
    selector = "app.kubernetes.io/component=trial"
    answer = cluster.batch.list_namespaced_job(namespace, label_selector=selector)
    found = cluster.batch.api_client.sanitize_for_serialization(answer.items)
    return {job["metadata"]["name"]: job for job in found}


def made(cluster: Cluster, namespace: str) -> list[str]:
    """Names of the trial Jobs that were ever made: an unfinished one goes with its artifact."""
    writes = cluster.writes(0, namespace)
    return [w.name for w in writes if w.verb == "patch" and w.name.startswith("tiny-trial-")]


def q8_0(cluster: Cluster, namespace: str) -> None:
    """Ask for another precision, whose trial shows less."""
    cluster.node.trials["Q8_0"] = {"tokensPerSecond": 12.5, "answerMilliseconds": 5080.5}
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q8_0"}})


def test_an_artifact_is_tried_as_it_is_served_and_its_figures_are_kept(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=20)))
    settled(cluster, namespace)
    status = cluster.model(namespace, "tiny")["status"]
    shown = status["performance"]
    assert shown["timeToFirstTokenMilliseconds"] == "40.500"
    assert shown["tokensPerSecond"] == "25.000"
    assert shown["answerMilliseconds"] == "2560.500"
    assert shown["peakMemoryBytes"] == 20 * MIB
    assert (shown["node"], shown["processor"], shown["cpus"]) == ("fake-node", "Fake CPU", 1)
    assert (shown["runtime"], shown["runs"]) == ("llama-cpp", 5)
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert verified["status"] == "True"
    assert (
        "In a trial on node fake-node the first token came after 40.500 ms, 25.000 tokens a second "
        "followed, the engine took 20.0 MiB." in verified["message"]
    )

    (job,) = trials(cluster, namespace).values()
    tried = job["spec"]["template"]["spec"]
    deployment = cluster.apps.read_namespaced_deployment("tiny", namespace)
    served = cluster.apps.api_client.sanitize_for_serialization(deployment)["spec"]["template"]
    pull, engine = tried["initContainers"]
    (serving,) = served["spec"]["containers"]
    for field in ("image", "args", "env", "resources", "volumeMounts", "securityContext"):
        assert engine[field] == serving[field], field
    assert engine["startupProbe"] == serving["startupProbe"]
    assert engine["restartPolicy"] == "Always"
    assert pull == served["spec"]["initContainers"][0]
    for field in ("securityContext", "volumes", "serviceAccountName"):
        assert tried[field] == served["spec"][field], field
    assert tried["automountServiceAccountToken"] is False
    (client,) = tried["containers"]
    assert "envFrom" not in client, "who measures has no credentials"


def reports(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """The Jobs that put trials into the report, with their tasks."""
    selector = "app.kubernetes.io/component=report"
    answer = cluster.batch.list_namespaced_job(namespace, label_selector=selector)
    return list(cluster.batch.api_client.sanitize_for_serialization(answer.items))


def task_of(job: dict[str, Any]) -> ReportTask:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    return ReportTask.model_validate_json(given[TASK_VARIABLE])


def test_what_a_trial_showed_goes_into_the_report(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=20)))
    settled(cluster, namespace)
    status = cluster.model(namespace, "tiny")["status"]
    (job,) = reports(cluster, namespace)
    task = task_of(job)
    assert (task.key, task.report) == (status["artifact"]["key"], "quality/fake.html")
    (shown,) = task.trials
    assert (shown.key, shown.runtime, shown.cpus) == (task.key, "llama-cpp", 1)
    assert (shown.time_to_first_token_milliseconds, shown.tokens_per_second) == (40.5, 25)
    assert (shown.node, shown.processor) == ("fake-node", "Fake CPU")
    owner = task.referrer
    uri = f"{status['artifact']['uri']}/trials/{owner.cluster}/{namespace}/tiny.json"
    assert status["performance"]["reportURI"] == uri
    pod = job["spec"]["template"]["spec"]
    assert "initContainers" not in pod, "no engine runs beside the store's credentials"
    assert [each["secretRef"]["name"] for each in pod["containers"][0]["envFrom"]] == ["writer"]


def test_a_report_that_fails_keeps_nothing_waiting(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "report"] = refuses("report", "AccessDenied", "no")
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=20)))
    cluster.wait_for(namespace, "tiny", "Ready")
    cluster.wait_for(namespace, "tiny", "Reconciling", "True", "Reporting")
    assert cluster.condition(namespace, "tiny", "Ready")["status"] == "True"
    assert cluster.condition(namespace, "tiny", "Stalled")["status"] == "False"
    assert "reportURI" not in cluster.model(namespace, "tiny")["status"]["performance"]


def test_a_limit_that_a_trial_shows_needs_no_text(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality={"maxMemory": "1Gi"}))
    settled(cluster, namespace)
    status = cluster.model(namespace, "tiny")["status"]
    assert "quality" not in status
    assert status["performance"]["peakMemoryBytes"] == 20 * MIB
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert "Nothing is given to measure quality by. In a trial on node" in verified["message"]
    cluster.patch(namespace, "tiny", {"quality": {"maxMemory": "1Mi"}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "PerformanceBelowLimit")


def test_what_is_not_asked_for_is_not_tried(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(maxPerplexityIncreasePercent=5)))
    settled(cluster, namespace)
    assert trials(cluster, namespace) == {}
    assert "performance" not in cluster.model(namespace, "tiny")["status"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"minTokensPerSecond": 20}, "12.500 tokens a second came on node fake-node"),
        ({"maxTimeToFirstTokenMilliseconds": "300.5"}, "the first token came after 500.000 ms on"),
        ({"maxMemory": "200Mi"}, "the engine took 300.0 MiB at its peak on node fake-node"),
    ],
)
def test_what_exceeds_a_limit_leaves_the_old_revision_serving(
    cluster: Cluster, operator: Operator, namespace: str, limits: dict[str, Any], said: str
) -> None:
    cluster.node.trials["Q8_0"] = {
        "tokensPerSecond": 12.5,
        "timeToFirstTokenMilliseconds": 500,
        "peakMemoryBytes": 300 * MIB,
    }
    cluster.apply(objects.model(namespace, quality=limited(**limits)))
    settled(cluster, namespace)
    before = cluster.apps.read_namespaced_deployment("tiny", namespace)
    cluster.patch(namespace, "tiny", {"quantization": {"precision": "Q8_0"}})
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "PerformanceBelowLimit")
    cluster.wait(
        "the report has it, too",
        lambda: "reportURI" in cluster.model(namespace, "tiny")["status"]["performance"],
    )
    (field, limit) = next(iter(limits.items()))
    assert f"spec.quality.{field} is {limit}, but {said}" in stalled["message"]
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", "PerformanceBelowLimit")
    assert cluster.condition(namespace, "tiny", "Quantized")["status"] == "True"
    after = cluster.apps.read_namespaced_deployment("tiny", namespace)
    assert after.metadata.generation == before.metadata.generation
    assert cluster.served_precisions(namespace) == {"Q4_K_M"}
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == [], "a blocked object is settled"

    cluster.patch(namespace, "tiny", {"quality": {"onFailure": "Warn"}})
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"Q8_0"}
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", "PerformanceBelowLimit")
    assert len(made(cluster, namespace)) == 2, "one for each artifact"


def test_other_limits_need_no_other_trial_but_other_resources_do(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=1)))
    settled(cluster, namespace)
    cluster.patch(namespace, "tiny", {"quality": {"minTokensPerSecond": 26}})
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "PerformanceBelowLimit")
    cluster.patch(namespace, "tiny", {"quality": {"minTokensPerSecond": 24}})
    settled(cluster, namespace)
    assert len(made(cluster, namespace)) == 1
    first = cluster.model(namespace, "tiny")["status"]["performance"]["inputsHash"]

    serving = {"resources": {"limits": {"cpu": "2", "memory": "2Gi"}}}
    cluster.patch(namespace, "tiny", {"serving": serving})
    settled(cluster, namespace)
    assert len(made(cluster, namespace)) == 2
    shown = cluster.model(namespace, "tiny")["status"]["performance"]
    assert shown["inputsHash"] != first
    assert shown["cpus"] == 2


def test_nothing_is_rolled_out_while_a_trial_goes_on(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=1)))
    settled(cluster, namespace)
    accepted = cluster.model(namespace, "tiny")["status"]["acceptedArtifact"]
    cluster.node.behaviours["tiny", "trial Q8_0"] = Runs()
    q8_0(cluster, namespace)
    verified = cluster.wait_for(namespace, "tiny", "Verified", "False", "Measuring")
    assert cluster.model(namespace, "tiny")["status"]["acceptedArtifact"] == accepted
    assert "trial is running" in cluster.wait(
        "the client runs",
        lambda: (
            (m := cluster.condition(namespace, "tiny", "Verified")["message"])
            and "trial is running" in m
            and m
        ),
    ), verified
    assert cluster.condition(namespace, "tiny", "Ready")["reason"] == "Measuring"
    assert cluster.condition(namespace, "tiny", "Reconciling")["status"] == "True"
    assert cluster.condition(namespace, "tiny", "Quantized")["status"] == "True"
    assert cluster.condition(namespace, "tiny", "Serving")["status"] == "True"
    assert cluster.served_precisions(namespace) == {"Q4_K_M"}
    operator.kill()
    operator.start()
    del cluster.node.behaviours["tiny", "trial Q8_0"]
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"Q8_0"}
    assert len(made(cluster, namespace)) == 2, "a restart makes no other trial"


@pytest.mark.parametrize(
    ("container", "behaviour", "reason", "said"),
    [
        (
            "engine",
            Crashed(1, "error: unknown tensor type 42"),
            "TrialFailed",
            "engine: error: unknown tensor type 42 (exit code 1): it has to answer /health within "
            "15 s",
        ),
        ("engine", Crashed(137, "", "OOMKilled"), "OutOfMemory", "engine was ended for using more"),
        (
            "trial",
            refuses("trial", "EngineRefused", "the engine answered HTTP 404"),
            "EngineRefused",
            "trial: the engine answered HTTP 404",
        ),
        (
            "pull",
            refuses("pull", "ArtifactDamaged", "model.gguf has another sha256"),
            "ArtifactDamaged",
            "model.gguf has another sha256",
        ),
    ],
)
def test_an_engine_that_cannot_do_it_keeps_the_old_revision_serving(
    cluster: Cluster,
    operator: Operator,
    namespace: str,
    container: str,
    behaviour: Any,
    reason: str,
    said: str,
) -> None:
    quality = limited(minTokensPerSecond=1, onFailure="Warn")
    cluster.apply(objects.model(namespace, quality=quality))
    settled(cluster, namespace)
    cluster.node.behaviours["tiny", f"{container} Q8_0"] = behaviour
    q8_0(cluster, namespace)
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", reason)
    assert said in stalled["message"]
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", reason)
    assert cluster.served_precisions(namespace) == {"Q4_K_M"}
    shown = cluster.model(namespace, "tiny")["status"]["performance"]
    assert (shown["reason"], "tokensPerSecond" in shown) == (reason, False)
    _, failed = made(cluster, namespace)
    cluster.wait("no Job tries on", lambda: failed not in trials(cluster, namespace))
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    time.sleep(2)
    assert cluster.writes(mark, namespace) == [], "a failed trial is settled"

    del cluster.node.behaviours["tiny", f"{container} Q8_0"]
    cluster.ask_again(namespace, "tiny")
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"Q8_0"}


def test_a_failed_trial_is_no_matter_once_nobody_asks_for_one(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "engine"] = Crashed(1, "cannot load it")
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=1)))
    cluster.wait_for(namespace, "tiny", "Stalled", "True", "TrialFailed")
    cluster.patch(namespace, "tiny", {"quality": {"minTokensPerSecond": None}})
    settled(cluster, namespace)
    assert cluster.condition(namespace, "tiny", "Verified")["status"] == "True"
    assert "performance" not in cluster.model(namespace, "tiny")["status"]


def test_what_keeps_a_trial_from_starting_is_no_failure_of_the_artifact(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.behaviours["tiny", "engine"] = Waits("ErrImagePull", "no such image")
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=1)))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "ImagePullFailed")
    assert "no such image" in stalled["message"]
    verified = cluster.condition(namespace, "tiny", "Verified")
    assert (verified["status"], verified["reason"]) == ("False", "Measuring")
    assert "performance" not in cluster.model(namespace, "tiny")["status"]
    del cluster.node.behaviours["tiny", "engine"]
    settled(cluster, namespace)
    assert len(made(cluster, namespace)) == 1


def test_a_figure_that_no_trial_gives_is_within_no_limit(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.node.trials["Q4_K_M"] = {"tokensPerSecond": None}
    cluster.apply(objects.model(namespace, quality=limited(minTokensPerSecond=0)))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "PerformanceNotMeasured")
    assert (
        "spec.quality.minTokensPerSecond is 0, but the trial measured nothing"
        in (stalled["message"])
    )
    assert cluster.served_precisions(namespace) == set()


def test_a_preset_that_asks_for_a_trial_needs_something_served(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.preset("quick", quality={"minTokensPerSecond": 20}))
    manifest = objects.model(
        namespace, quantization={"presetName": "quick"}, quality={"evaluation": EVALUATION}
    )
    del manifest["spec"]["serving"]
    cluster.apply(manifest)
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "ServingRequired")
    assert stalled["message"].startswith("With Preset 'quick': ")
    cluster.patch(namespace, "tiny", {"serving": {}})
    settled(cluster, namespace)
    assert len(made(cluster, namespace)) == 1


def test_a_settled_object_is_not_written_and_shows_its_trial(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    cluster.apply(objects.model(namespace, quality=limited(maxMemory="1Gi")))
    settled(cluster, namespace)
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(3)
    labels = f'{{model="tiny",namespace="{namespace}",node="fake-node"}}'
    for metric, value in {
        "quantop_model_trial_time_to_first_token_seconds": "0.0405",
        "quantop_model_trial_tokens_per_second": "25.0",
        "quantop_model_trial_peak_memory_bytes": "2.097152e+07",
    }.items():
        assert f"{metric}{labels} {value}" in metrics(operator)
    assert operator.stop() == 0
    operator.start()
    cluster.wait("it leads again", operator.leads)
    time.sleep(5)
    assert cluster.writes(mark, namespace) == []
    cluster.delete(namespace, "tiny")
    cluster.wait(
        "the gauges go", lambda: f"trial_tokens_per_second{labels}" not in metrics(operator)
    )


def metrics(operator: Operator) -> str:
    """The operator's own metrics."""
    url = f"http://127.0.0.1:{operator.ports[1]}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: str = answer.read().decode()
    return found


def memories(node: FakeNode, **megabytes: int) -> None:
    """What an engine takes with a precision."""
    for precision, amount in megabytes.items():
        node.trials[precision] = {"peakMemoryBytes": amount * MIB}


def test_the_one_that_takes_the_least_memory_is_chosen(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    """B4 is the smallest that keeps the limit, but its engine unpacks it."""
    memories(node, B4=90, B5=75, B7=77, B8=78, B9=79)
    cluster.apply(auto(namespace, quantization=MEMORY))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B5"}
    status = cluster.model(namespace, "tiny")["status"]
    assert status["performance"]["peakMemoryBytes"] == 75 * MIB
    assert status["artifact"]["precision"] == "B5"
    found = {c["precision"]: c for c in status["candidates"]}
    assert (found["B5"]["state"], found["B5"]["reason"]) == ("Chosen", "LeastMemory")
    assert found["B4"]["state"] == "Passed"
    assert found["B4"]["performance"]["peakMemoryBytes"] == 90 * MIB
    assert found["B3"]["state"] == "Rejected"
    assert "performance" not in found["B3"], "what lost too much is not tried"
    assert found["B9"]["state"] == "Skipped"
    assert "would take more memory than B5 does" in found["B9"]["message"]
    assert len(conversions(cluster, namespace)) == 3
    assert len(made(cluster, namespace)) == 2
    (job,) = reports(cluster, namespace)
    tried = {each.key: each.peak_memory_bytes for each in task_of(job).trials}
    assert tried == {found["B4"]["key"]: 90 * MIB, found["B5"]["key"]: 75 * MIB}
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(3)
    assert cluster.writes(mark, namespace) == []


def test_the_fastest_of_those_that_are_listed_is_chosen(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    for precision, answer in {"B3": 100, "B4": 900, "B5": 500, "B7": 505, "B9": 700}.items():
        node.trials[precision] = {"answerMilliseconds": answer}
    listed = {"auto": {"minimize": "Latency", "precisions": ["B3", "B4", "B5", "B7", "B9"]}}
    cluster.apply(auto(namespace, quantization=listed))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B5"}
    assert candidate(cluster, namespace, "B5")["reason"] == "Fastest"
    assert len(conversions(cluster, namespace)) == 5, "only trying tells"
    assert len(made(cluster, namespace)) == 4
    assert states(cluster, namespace)["B3"] == "Rejected"


def test_a_candidate_under_trial_is_not_yet_what_is_asked_for(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    node.behaviours["tiny", "trial B5"] = Runs()
    cluster.apply(auto(namespace, quantization=MEMORY, quality={"onFailure": "Warn"}))
    quantized = cluster.wait_for(namespace, "tiny", "Quantized", "False", "Measuring")
    assert quantized["message"].startswith("Trying B5, candidate 1: ")
    assert "acceptedArtifact" not in cluster.model(namespace, "tiny")["status"]
    assert states(cluster, namespace)["B5"] == "Trying"
    assert candidate(cluster, namespace, "B5")["sizeBytes"] == 5 * MIB
    assert cluster.condition(namespace, "tiny", "Ready")["status"] == "False"
    assert cluster.served_precisions(namespace) == set()
    operator.kill()
    del node.behaviours["tiny", "trial B5"]
    operator.start()
    settled(cluster, namespace)
    assert len(conversions(cluster, namespace)) == 3


def test_a_candidate_whose_engine_fails_does_not_end_the_search(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    memories(node, B4=40, B5=50)
    node.behaviours["tiny", "engine B4"] = Crashed(1, "cannot load it")
    cluster.apply(auto(namespace, quantization=MEMORY))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B5"}
    failed = candidate(cluster, namespace, "B4")
    assert (failed["state"], failed["reason"]) == ("Failed", "TrialFailed")
    assert "cannot load it" in failed["message"]


def test_a_limit_on_speed_holds_for_a_search_for_the_smallest(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    node.trials["B4"] = {"tokensPerSecond": 3}
    cluster.apply(auto(namespace, quality={"minTokensPerSecond": 10}))
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B5"}
    rejected = candidate(cluster, namespace, "B4")
    assert (rejected["state"], rejected["reason"]) == ("Rejected", "PerformanceBelowLimit")


def test_what_trials_showed_is_kept_also_when_nothing_passes(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    """B4 and B5 are tried and too slow; B3 loses too much, and B7 cannot be loaded."""
    speeds = {"B4": 3, "B5": 2, "B8": 1}
    for precision, speed in speeds.items():
        node.trials[precision] = {"tokensPerSecond": speed}
    node.behaviours["tiny", "engine B7"] = Crashed(1, "cannot load it")
    listed = {"auto": {"precisions": ["B3", "B4", "B5", "B7", "B8"]}}
    cluster.apply(auto(namespace, quantization=listed, quality={"minTokensPerSecond": 10}))
    stalled = cluster.wait_for(namespace, "tiny", "Stalled", "True", "NoCandidatePasses")
    assert "The best is B4" in stalled["message"]

    def kept() -> dict[str, str]:
        candidates = cluster.model(namespace, "tiny")["status"]["candidates"]
        return {
            c["precision"]: c["performance"]["reportURI"]
            for c in candidates
            if "reportURI" in c.get("performance", {})
        }

    cluster.wait("the report has them", kept)
    (job,) = reports(cluster, namespace)
    task = task_of(job)
    found = {c["precision"]: c for c in cluster.model(namespace, "tiny")["status"]["candidates"]}
    tried = {found[name]["key"]: speed for name, speed in speeds.items() if name in kept()}
    assert len(tried) > 1
    assert {each.key: each.tokens_per_second for each in task.trials} == tried
    assert (task.key, task.report) == (found["B4"]["key"], "quality/fake.html")
    place = f"trials/{task.referrer.cluster}/{namespace}/tiny.json"
    assert kept()["B4"] == f"s3://models/artifacts/{task.key}/{place}"
    assert cluster.condition(namespace, "tiny", "Stalled")["reason"] == "NoCandidatePasses"
    assert cluster.served_precisions(namespace) == set()
    time.sleep(1)
    mark = cluster.plane.audit.mark()
    cluster.core.patch_namespace(namespace, {"metadata": {"labels": {"touched": "true"}}})
    time.sleep(3)
    assert cluster.writes(mark, namespace) == [], "a search without an answer is settled"

    cluster.patch(namespace, "tiny", {"quality": {"minTokensPerSecond": "2.5"}})
    settled(cluster, namespace)
    assert cluster.served_precisions(namespace) == {"B4"}
    assert "reportURI" in cluster.model(namespace, "tiny")["status"]["performance"]


def test_what_no_node_can_hold_is_skipped_and_tried_once_one_can(
    cluster: Cluster, operator: Operator, namespace: str, node: FakeNode
) -> None:
    """B4 is served on nodes of a kind that there is none of."""
    formats = [{"format": "Ladder", "precisions": ["B4"]}]
    special = {"nodeSelector": {"kind": "special"}, "priority": 5}
    cluster.apply(objects.runtime("special", formats=formats, **special))
    allocatable = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "99Gi", "pods": "10"}
    names = ["plain", "special"]
    try:
        for name in names:
            labels = {"kind": name}
            if name == "special":
                cluster.apply(auto(namespace))
                settled(cluster, namespace)
                assert cluster.served_precisions(namespace) == {"B5"}
                skipped = candidate(cluster, namespace, "B4")
                assert (skipped["state"], skipped["reason"]) == ("Skipped", "InsufficientCapacity")
                assert "runs on nodes labelled kind=special only" in skipped["message"]
            status = {"allocatable": allocatable}
            cluster.core.create_node({"metadata": {"name": name, "labels": labels}})
            cluster.core.patch_node_status(name, {"status": status})
        cluster.wait("the choice", lambda: states(cluster, namespace)["B4"] == "Chosen")
    finally:
        for name in names:
            cluster.core.delete_node(name)
