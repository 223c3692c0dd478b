"""What pods say, in words."""

import json
from typing import Any

from quantop.contract import Stage
from quantop.reconcile import pods


def pod(*statuses: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", **metadata},
        "status": {"containerStatuses": list(statuses)},
    }


def ended(
    name: str, code: int, message: str = "", reason: str = "Error", when: str = "state"
) -> Any:
    said = {"exitCode": code, "message": message, "reason": reason}
    return {"name": name, "image": "i", when: {"terminated": said}}


def waiting(reason: str, message: str) -> Any:
    return {"name": "c", "image": "i", "state": {"waiting": {"reason": reason, "message": message}}}


def test_an_answer_is_one_that_ended_well() -> None:
    good = json.dumps({"key": "k"})
    assert pods.result([pod(ended("resolve", 0, good))], Stage.RESOLVE) == {"key": "k"}
    assert pods.result([pod(ended("resolve", 1, good))], Stage.RESOLVE) is None
    assert pods.result([pod(ended("resolve", 0, "not json"))], Stage.RESOLVE) is None
    assert pods.result([pod(ended("fetch", 0, good))], Stage.RESOLVE) is None


def test_a_refusal_is_found_in_a_container_that_was_restarted_since() -> None:
    said = json.dumps({"reason": "PickleRefused", "message": "weights.bin is pickle"})
    found = pods.refusal([pod(ended("fetch", 3, said, when="lastState"))])
    assert found is not None
    assert (found.reason, found.message) == ("PickleRefused", "fetch: weights.bin is pickle")


def test_another_exit_code_is_no_refusal_but_a_failure() -> None:
    found = [pod(ended("quantize", 1, "Traceback: boom"))]
    assert pods.refusal(found) is None
    failure = pods.last_failure(found)
    assert failure is not None
    assert failure.message == "quantize: Traceback: boom (exit code 1)"


def test_a_hostile_reason_does_not_reach_the_condition() -> None:
    said = json.dumps({"reason": "not a reason!", "message": "x"})
    failure = pods.refusal([pod(ended("quantize", 3, said))])
    assert failure is not None
    assert failure.reason == "JobFailed"


def test_memory_is_named() -> None:
    failure = pods.last_failure([pod(ended("quantize", 137, "", "OOMKilled"))])
    assert failure is not None
    assert "spec.quantization.resources.limits.memory" in failure.message


def test_what_keeps_a_pod_from_starting() -> None:
    secret = pods.blocked([pod(waiting("CreateContainerConfigError", 'secret "s" not found'))])
    assert secret is not None
    assert secret.reason == "SecretNotFound"
    other = pods.blocked([pod(waiting("CreateContainerConfigError", "no key"))])
    assert other is not None
    assert other.reason == "ContainerConfigError"
    busy = "failed to sync secret cache: timed out waiting for the condition"
    assert pods.blocked([pod(waiting("CreateContainerConfigError", busy))]) is None
    image = pods.blocked([pod(waiting("ErrImagePull", "denied"))])
    assert image is not None
    assert image.reason == "ImagePullFailed"
    assert pods.blocked([pod(waiting("ContainerCreating", ""))]) is None
    going = pod(waiting("ErrImagePull", "denied"), deletionTimestamp="now")
    assert pods.blocked([going]) is None


def test_a_job_is_answered_by_its_own_pods_and_not_by_those_of_an_earlier_one_of_its_name() -> None:
    """A Job that is asked again is deleted and made anew; its old pod goes later."""
    name = {"batch.kubernetes.io/job-name": "tiny-resolve"}

    def made(uid: str, when: str) -> dict[str, Any]:
        labels = {**name, "batch.kubernetes.io/controller-uid": uid}
        return pod(labels=labels, creationTimestamp=when)

    all_of_the_name = [made("old", "2026-01-01"), made("new", "2026-01-02")]
    (mine,) = pods.of_job(all_of_the_name, {"metadata": {"name": "tiny-resolve", "uid": "new"}})
    assert mine["metadata"]["creationTimestamp"] == "2026-01-02"


def test_a_crash_is_a_container_that_was_started_again() -> None:
    ends = ended("engine", 143)
    assert pods.crash([pod(ends)], "engine") is None, "ended with its pod"
    crashed = ended("engine", 1, "no such tensor", when="lastState")
    found = pods.crash([pod(crashed)], "engine")
    assert found is not None
    assert found.message == "engine: no such tensor (exit code 1)"
    assert pods.crash([pod(crashed)], "trial") is None


def test_a_container_can_be_left_out_of_what_pods_say() -> None:
    client = ended("trial", 1, "boom")
    both = [pod(ended("engine", 143), client)]
    assert pods.last_failure(pods.without(both, "engine")) == pods.last_failure([pod(client)])
