"""The page about an artifact's quality, and the list of measurements that it is drawn from."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from quantop.api.quantizedmodel import QuantizedModelSpec
from quantop.contract import (
    TERMINATION_MESSAGE_BYTES,
    PublishResult,
    Recipe,
    Referrer,
    StoreRef,
    Trial,
)
from quantop_adapters.answers import Prompts
from quantop_adapters.harness import Tasks
from quantop_adapters.stage import Evaluation, Task
from quantop_worker import store
from quantop_worker.digests import FileRecord
from quantop_worker.errors import RefusedError, TryAgainError
from quantop_worker.manifest import (
    CalibrationRecord,
    Coverage,
    EvaluationRecord,
    Manifest,
    MeasuredQuality,
    Measurement,
    PromptsRecord,
    SourceRecord,
    StoredQuality,
    StoredTrial,
    TasksRecord,
    Tool,
)
from quantop_worker.markup import Markup, element
from quantop_worker.page import apply_command, evaluate_commands, page
from quantop_worker.plot import Limit, Point, plot, size_text
from quantop_worker.s3 import Bucket
from quantop_worker.store import Artifact, Published, stored_file

from tests.worker.harness import QUALITY, RECIPE, REPOSITORY, Bench, evaluation

FILES = {"model.gguf": b"quantized" * 100, "tokenizer.json": b"{}"}
TEXT = "texts/eval.txt"
VOID = {"meta"}
HOSTILE = "<script>alert(1)</script>\"'&\nEOF\n$(touch pwned)`touch pwned`"


class Parsed(HTMLParser):
    """The elements and the text of a page, which must be well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture
def measured(bench: Bench) -> Bench:
    """An artifact is to be made and measured on a text."""
    bench.put(TEXT, b"evaluate on this")
    return bench.with_task(evaluation=evaluation(f"s3://{bench.bucket}/{TEXT}")).resolved()


def precision(bench: Bench, name: str) -> Bench:
    """The same for another precision, on another disk."""
    recipe = bench.task.recipe.model_copy(update={"precision": name})
    return bench.in_folder(name).with_task(recipe=recipe, key=None).resolved()


def report_of(bench: Bench, published: PublishResult) -> Parsed:
    """The page that a result names."""
    return Parsed(page_text(bench, published))


def page_text(bench: Bench, published: PublishResult) -> str:
    summary = published.published
    key = f"{summary.uri}/{summary.report}".removeprefix(f"s3://{bench.bucket}/")
    body = bench.client.get_object(Bucket=bench.bucket, Key=key)["Body"].read()
    return body.decode()


def measurements(bench: Bench) -> list[str]:
    """What is listed of all sources."""
    return bench.objects("models/measurements/")


def test_a_measured_artifact_gets_a_page_beside_its_report(measured: Bench) -> None:
    published = measured.convert(FILES)
    name = published.published.report
    (stored,) = (
        key for key in measured.objects("models/") if key.endswith(".json") and "/q" in key
    )
    assert stored.endswith("/" + name.replace(".html", ".json"))
    key = stored.replace(".json", ".html")
    head = measured.client.head_object(Bucket=measured.bucket, Key=key)
    assert head["ContentType"] == "text/html; charset=utf-8"
    text = report_of(measured, published).text
    manifest = measured.artifact().read()
    assert manifest is not None
    for said in (
        f"GGUF Q4_K_M of s3://{measured.bucket}/checkpoint",
        manifest.manifest.source.digest,
        manifest.manifest_digest,
        RECIPE.quantizer_image,
        "llama.cpp b1",
        "10.0000",
        "10.5000",
        "+5.000",
        "97.500",
        "0.020000",
        "14 of 15",
        "4.850",
        "e to the power of the mean negative log likelihood",
    ):
        assert said in text, said
    assert measured.referred_by("another").resolve().published == published.published


def test_without_a_text_there_is_no_page(bench: Bench) -> None:
    bench = bench.resolved()
    assert bench.convert(FILES).published.report == ""
    assert bench.resolve().published is not None
    assert [key for key in bench.objects("models/") if key.endswith(".html")] == []
    assert measurements(bench) == []


def test_the_plot_has_all_artifacts_of_the_source_and_text(measured: Bench) -> None:
    measured.convert(FILES)
    other = precision(measured, "Q8_0")
    published = other.convert({"model.gguf": b"larger" * 1000})
    drawn = report_of(measured, published)
    assert drawn.count("svg") == 1
    assert drawn.count("circle") == 2
    marked = [given for tag, given in drawn.elements if given.get("class") == "this"]
    assert len(marked) == 2, "one point and one row"
    assert "GGUF Q4_K_M" in drawn.text
    assert str(measured.task.key)[:16] in drawn.text


def test_an_artifact_measured_on_another_text_is_not_compared(measured: Bench) -> None:
    measured.convert(FILES)
    measured.put("texts/other.txt", b"something else")
    text = evaluation(f"s3://{measured.bucket}/texts/other.txt")
    other = precision(measured.with_task(evaluation=text), "Q8_0")
    published = other.convert({"model.gguf": b"larger" * 1000})
    assert report_of(measured, published).count("circle") == 1
    assert len(measurements(measured)) == 2


def test_a_resolve_draws_what_was_measured_since(measured: Bench) -> None:
    first = measured.convert(FILES)
    precision(measured, "Q8_0").convert({"model.gguf": b"larger" * 1000})
    assert report_of(measured, first).count("circle") == 1
    measured.resolve()
    assert report_of(measured, first).count("circle") == 2


@pytest.mark.parametrize("step", ["put_measurement", "put_page"])
def test_a_publisher_killed_before_its_page_leaves_a_whole_artifact(
    measured: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    measured.fetch()
    measured.quantize(FILES)

    def die(*arguments: Any) -> None:
        raise TryAgainError("Killed", "after the manifest")

    with monkeypatch.context() as patch:
        patch.setattr(Artifact, step, die)
        with pytest.raises(TryAgainError):
            measured.publish()
    assert measured.artifact().find() is not None
    published = measured.publish()
    assert report_of(measured, published).count("circle") == 1
    assert len(measurements(measured)) == 1


def test_a_page_that_was_lost_is_written_by_the_next_resolve(measured: Bench) -> None:
    published = measured.convert(FILES)
    before = page_text(measured, published)
    for key in [*measurements(measured), *measured.objects("models/artifacts/")]:
        if key.endswith(".html") or "/measurements/" in key:
            measured.client.delete_object(Bucket=measured.bucket, Key=key)
    measured.resolve()
    assert page_text(measured, published).split("Written by")[0] == before.split("Written by")[0]
    assert len(measurements(measured)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"no JSON",
        lambda content: b"{}",
        lambda content: content.replace(b'"key":"', b'"key":"../'),
        lambda content: content + b" " * store.QUALITY_LIMIT_BYTES,
    ],
    ids=["garbage", "fields missing", "another key", "too large"],
)
def test_a_measurement_that_somebody_altered_is_left_out(
    measured: Bench, spoil: Callable[[bytes], bytes]
) -> None:
    measured.convert(FILES)
    (listed,) = measurements(measured)
    body = measured.client.get_object(Bucket=measured.bucket, Key=listed)["Body"]
    measured.put(listed, spoil(body.read()))
    published = precision(measured, "Q8_0").convert({"model.gguf": b"larger" * 1000})
    assert report_of(measured, published).count("circle") == 1


def test_a_measurement_under_another_key_is_left_out(measured: Bench) -> None:
    published = measured.convert(FILES)
    (listed,) = measurements(measured)
    body = measured.client.get_object(Bucket=measured.bucket, Key=listed)["Body"].read()
    measured.put(listed.replace(str(measured.task.key), "0" * 64), body)
    measured.resolve()
    assert report_of(measured, published).count("circle") == 1


def test_a_measurement_whose_artifact_is_gone_is_left_out(measured: Bench) -> None:
    measured.convert(FILES)
    manifest = f"models/artifacts/{measured.task.key}/manifest.json"
    measured.client.delete_object(Bucket=measured.bucket, Key=manifest)
    published = precision(measured, "Q8_0").convert({"model.gguf": b"larger" * 1000})
    assert report_of(measured, published).count("circle") == 1


def test_a_page_reads_a_bounded_number_of_measurements(
    measured: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PEERS", 1)
    for name in ("Q2_K", "Q5_K_M", "Q8_0"):
        published = precision(measured, name).convert({"model.gguf": name.encode() * 100})
    assert report_of(measured, published).count("circle") == 2


def test_a_deletion_takes_the_measurements_on_all_texts_with_it(measured: Bench) -> None:
    published = measured.convert(FILES)
    measured.put("texts/other.txt", b"something else")
    text = evaluation(f"s3://{measured.bucket}/texts/other.txt")
    again = measured.in_folder("again").with_task(evaluation=text)
    again.fetch()
    again.quantize({})
    again.publish()
    stays = precision(measured, "Q8_0")
    stays.convert({"model.gguf": b"larger" * 1000})
    assert len(measurements(measured)) == 3
    assert measured.delete(published.published.key).deleted == 1
    assert [key.endswith(f"/{stays.task.key}.json") for key in measurements(measured)] == [True]
    assert stays.delete(str(stays.task.key)).deleted == 1
    assert measured.objects("models/") == []


def test_a_deletion_killed_before_the_manifest_goes_on(
    measured: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = measured.convert(FILES)
    delete = Bucket.delete

    def die(bucket: Bucket, name: str) -> None:
        if name.endswith("manifest.json"):
            raise TryAgainError("Killed", "right before the manifest")
        delete(bucket, name)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete", die)
        with pytest.raises(TryAgainError):
            measured.delete(published.published.key)
    assert measurements(measured) == []
    assert measured.artifact().find() is not None, "whole, only not listed"
    assert measured.delete(published.published.key).deleted == 1
    assert measured.objects("models/") == []


def test_an_artifact_without_a_readable_manifest_is_deleted_all_the_same(measured: Bench) -> None:
    key = measured.convert(FILES).published.key
    measured.put(f"models/artifacts/{key}/manifest.json", b"garbage")
    with pytest.raises(RefusedError):
        measured.resolve()
    assert measured.delete(key).deleted == 1
    assert measured.objects("models/artifacts/") == []


def trial(key: str, **figures: Any) -> Trial:
    """How an artifact did."""
    shown = {
        "protocol": "trial-v1",
        "timeToFirstTokenMilliseconds": 40.5,
        "tokensPerSecond": 25,
        "answerMilliseconds": 2560.5,
        "peakMemoryBytes": 20 << 20,
        "runs": 5,
        "node": "node-a",
        "processor": "Some CPU",
        "cpus": 4,
        "runtime": "llama-cpp",
        "image": "registry.example/engine:1",
    }
    return Trial.model_validate({"key": key, **shown, **figures})


def rows_of(parsed: Parsed) -> list[str]:
    """The classes of the rows that are about artifacts."""
    return [str(given["class"]) for tag, given in parsed.elements if tag == "tr" and given]


def test_the_page_and_a_file_have_what_trials_showed(measured: Bench) -> None:
    other = precision(measured, "Q8_0")
    larger = other.convert({"model.gguf": b"larger" * 1000}).published.key
    published = measured.convert(FILES)
    assert "In the engine that serves" not in report_of(measured, published).text
    own = trial(published.published.key)
    slower = trial(larger, tokensPerSecond=12.25, timeToFirstTokenMilliseconds=512)
    assert measured.report(published, own, slower).trials == 2

    page = report_of(measured, published)
    for said in (
        "In the engine that serves",
        "40.500",
        "25.000",
        "20 MiB",
        "llama-cpp, 4 cores",
        "node-a, Some CPU",
        "512.000",
        "12.250",
        "GGUF Q8_0",
    ):
        assert said in page.text, said
    assert rows_of(page) == ["this", "other", "this", "other"], "by quality, and by trials"
    owner = measured.task.referrer
    name = f"trials/{owner.cluster}/{owner.namespace}/{owner.name}.json"
    for key, shown in ((published.published.key, own), (larger, slower)):
        place = f"models/artifacts/{key}/{name}"
        body = measured.client.get_object(Bucket=measured.bucket, Key=place)["Body"].read()
        assert StoredTrial.model_validate_json(body) == StoredTrial(referrer=owner, trial=shown)

    measured.resolve()
    assert "512.000" in report_of(measured, published).text, "who writes it next keeps them"
    measured.report(published, own.model_copy(update={"tokens_per_second": 31.5}))
    again = report_of(measured, published).text
    assert "31.500" in again
    assert "25.000" not in again


def test_each_object_has_trials_of_its_own_until_it_goes(measured: Bench) -> None:
    published = measured.convert(FILES)
    key = published.published.key
    another = measured.referred_by("another")
    another.resolve()
    measured.report(published, trial(key))
    another.report(published, trial(key, node="node-b"), max_mean_kl_divergence="0.015")
    page = report_of(measured, published).text
    assert "team/another" in page
    assert "node-a" in page
    assert "node-b" in page
    assert "maxMeanKLDivergence of team/another, 0.015 nats" in page
    another.delete(key)
    measured.resolve()
    assert "node-b" not in report_of(measured, published).text
    another.report(published, trial(key))
    assert measured.objects("models/artifacts/" + key + "/trials/test/team/another") == []
    assert measured.delete(key).deleted == 1
    assert measured.objects("models/") == []


def test_a_trial_is_kept_where_there_is_no_page(bench: Bench) -> None:
    bench = bench.resolved()
    published = bench.convert(FILES)
    assert bench.report(published, trial(published.published.key)).trials == 1
    assert [key for key in bench.objects("models/") if "/trials/" in key]
    assert [key for key in bench.objects("models/") if key.endswith(".html")] == []


@pytest.mark.parametrize("content", [b"no JSON", b"{}", b"another"])
def test_a_trial_that_somebody_altered_is_left_out(measured: Bench, content: bytes) -> None:
    published = measured.convert(FILES)
    owner = measured.task.referrer
    if content == b"another":
        content = StoredTrial(referrer=owner, trial=trial("0" * 64)).to_json().encode()
    measured.put(f"models/artifacts/{published.published.key}/trials/a/b/c.json", content)
    measured.resolve()
    assert "In the engine that serves" not in report_of(measured, published).text


def published(text: str = "harmless", **quality: Any) -> Published:
    """A made-up artifact with ``text`` wherever somebody else could have put it."""
    theirs = {"tool": {"name": text}, "baseline": text}
    report = MeasuredQuality.model_validate(QUALITY | theirs | quality)
    record = FileRecord(path=f"folder/{text}", size=10, sha256="a" * 64)
    text_record = {"uri": f"s3://{text}", "identity": text, "size": 1, "sha256": "b" * 64}
    manifest = Manifest(
        key="c" * 64,
        recipe=Recipe(
            format=text, precision=text, method=text, quantizer=text, quantizer_image=text
        ),
        source=SourceRecord(
            uri=f"hf://{text}",
            revision=text,
            identity=text,
            digest="d" * 64,
            size_bytes=1 << 30,
            architecture=text,
            files=(record,),
        ),
        calibration=CalibrationRecord(**text_record, samples=8, sequence_length=64),
        files=(stored_file(record),),
        files_digest="e" * 64,
        size_bytes=300 << 20,
        coverage=Coverage(
            bits_per_weight=4.8, parameters=1000, quantized_layers=14, total_layers=15
        ),
        tool=Tool(name=text, version=text),
        provenance=stored_file(record),
    )
    asked = PromptsRecord(**text_record, max_prompts=8, answer_tokens=16)
    given = TasksRecord(uri=f"s3://{text}", identity=text, size=1, digest="c" * 64, max_samples=32)
    evaluated = EvaluationRecord(
        **text_record, sequence_length=64, max_tokens=1000, prompts=asked, tasks=given
    )
    stored = StoredQuality(
        key=manifest.key, files_digest="e" * 64, evaluation=evaluated, report=report
    )
    return Published(manifest, "f" * 64, stored)


def peer(artifact: Published, **report: Any) -> Measurement:
    assert artifact.quality is not None
    return Measurement(
        key="9" * 64,
        recipe=artifact.manifest.recipe,
        size_bytes=500 << 20,
        report=artifact.quality.report.model_copy(update=report),
    )


def test_nothing_that_others_wrote_becomes_markup() -> None:
    def made(text: str) -> Parsed:
        artifact = published(text)
        strings = dict.fromkeys(("node", "processor", "runtime", "image", "protocol"), text)
        tried = StoredTrial(
            referrer=Referrer(cluster=text, namespace=text, name=text),
            trial=trial(artifact.manifest.key, **strings),
        )
        return Parsed(page(f"s3://{text}", artifact, [peer(artifact)], "now", None, [tried]))

    parsed = made(HOSTILE)
    assert parsed.count("script") == 0
    assert HOSTILE in parsed.text
    same = made("harmless")
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in same.elements]


def test_attributes_are_escaped_as_text_is() -> None:
    made = element("p", HOSTILE, Markup("<b></b>"), class_=HOSTILE, text_anchor="end")
    parsed = Parsed(made)
    assert parsed.elements == [("p", {"class": HOSTILE, "text-anchor": "end"}), ("b", {})]
    assert parsed.text == HOSTILE


def test_the_page_needs_nothing_else() -> None:
    artifact = published()
    text = page("s3://bucket/key", artifact, [peer(artifact)], "now")
    loading = {"src", "href", "action", "srcset", "data", "xlink:href"}
    for tag, given in Parsed(text).elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "a"}
        assert not loading & given.keys()
        assert not [name for name in given if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    artifact = published(meanKLDivergence=None, perplexity=None, topTokenAgreementPercent=None)
    parsed = Parsed(page("s3://bucket/key", artifact, [], "now"))
    assert parsed.count("svg") == 0
    assert "not measured" in parsed.text
    assert "nothing to draw" in parsed.text


@pytest.mark.parametrize("divergence", [float("nan"), float("inf"), -1.0])
def test_a_peer_without_a_usable_divergence_is_not_drawn(divergence: float) -> None:
    artifact = published()
    parsed = Parsed(page("s3://b/k", artifact, [peer(artifact, mean_kl_divergence=divergence)], ""))
    assert parsed.count("circle") == 1


def test_formulas_are_told_of_the_protocol_that_we_know_only() -> None:
    parsed = Parsed(page("s3://bucket/key", published(protocol="theirs-v9"), [], "now"))
    assert "theirs-v9" in parsed.text
    assert "likelihood" not in parsed.text


def test_what_stood_for_the_source_is_told_where_something_did() -> None:
    told = Parsed(page("s3://bucket/key", published(baseline="its graph"), [], "now")).text
    assert "compared with" in told
    assert "its graph" in told
    told = Parsed(page("s3://bucket/key", published(baseline=""), [], "now")).text
    assert "compared with" not in told


def test_what_an_encoder_or_a_classifier_lost_is_told() -> None:
    figures: dict[str, Any] = {
        "p1CosineSimilarity": 0.985,
        "baselineAccuracyPercent": 91.5,
        "accuracyPercent": 90,
    }
    artifact = published(protocol="texts-v1", meanCosineSimilarity=0.9927, **figures)
    text = Parsed(page("s3://bucket/key", artifact, [], "now")).text
    for told in ("mean cosine similarity", "0.992700", "0.985000", "91.500", "90.000"):
        assert told in text
    assert "label agreement" not in text


def test_the_accuracy_in_each_task_is_told() -> None:
    task = {
        "name": "endings",
        "metric": "acc_norm",
        "samples": 200,
        "baselinePercent": 71.5,
        "baselineErrorPercent": 3.192,
        "accuracyPercent": 68,
        "errorPercent": 3.299,
    }
    text = Parsed(page("uri", published(tasks=[task]), [], "now")).text
    for told in ("accuracy in endings", "71.500 ± 3.192", "68.000 ± 3.299", "200", "acc_norm"):
        assert told in text


def test_answers_are_told_where_there_were_prompts() -> None:
    figures: dict[str, Any] = {"meanAnswerPrefixPercent": 91.25, "prompts": 24}
    text = Parsed(page("uri", published(answerAgreementPercent=62.5, **figures), [], "now")).text
    for told in ("answer agreement", "62.500", "mean prefix", "91.250", "24"):
        assert told in text
    assert "answer agreement" not in Parsed(page("uri", published(), [], "now")).text


def test_what_needs_a_text_is_left_out_where_there_was_none(tmp_path: Path) -> None:
    artifact = published(answerAgreementPercent=62.5, perplexity=None, meanKLDivergence=None)
    assert artifact.quality is not None
    without: dict[str, Any] = dict.fromkeys(("uri", "identity", "size", "sha256"))
    evaluated = artifact.quality.evaluation.model_copy(update=without)
    artifact = replace(
        artifact, quality=artifact.quality.model_copy(update={"evaluation": evaluated})
    )
    told = Parsed(page("uri", artifact, [], "now")).text
    for said in ("62.500", "s3://harmless", "8 prompts"):
        assert said in told
    for said in ("likelihood", "scored positions", "None", "windows-v1"):
        assert said not in told
    spec = json.loads(apply_command(artifact.manifest, evaluated).split("\n", 1)[1][:-4])["spec"]
    assert spec["quality"]["evaluation"].keys() == {"prompts", "tasks"}
    calls = run(evaluate_commands("s3://bucket/key", artifact.manifest, evaluated), tmp_path)
    (podman,) = (call for call in calls if call[0] == "podman")
    given = [word.removeprefix("--env=") for word in podman if word.startswith("--env=")]
    task = Task.from_environment(dict(word.split("=", 1) for word in given))
    assert task.evaluation is not None
    assert task.evaluation.file is None
    assert task.evaluation.prompts == Prompts(Path("/work/inputs/prompts"), 8, 16)


def run(script: str, folder: Path) -> list[list[str]]:
    """Run a script whose programs only write down what they were given."""
    log = folder / "log"
    names = ("kubectl", "mkdir", "hf", "aws", "chmod", "podman", "cat")
    record = '{ printf "%s\\0" "$FUNCNAME" "$@"; printf "\\n\\0"; } >> "$LOG"'
    stubs = "".join(f"{name}() {{ {record}; }}\n" for name in names)
    done = subprocess.run(
        ["bash", "-eu", "-c", stubs + script],
        cwd=folder,
        env={"LOG": str(log), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert not (folder / "pwned").exists()
    calls = log.read_text().split("\n\0")[:-1]
    return [call.split("\0")[:-1] for call in calls]


def test_the_commands_run_nothing_that_others_wrote(tmp_path: Path) -> None:
    artifact = published(HOSTILE)
    assert artifact.quality is not None
    text = artifact.quality.evaluation
    calls = run(evaluate_commands(f"s3://{HOSTILE}", artifact.manifest, text), tmp_path)
    assert [call[0] for call in calls] == [
        *("mkdir", "hf", *["aws"] * 4, "chmod", "kubectl", "podman", "cat")
    ]
    (podman,) = (call for call in calls if call[0] == "podman")
    assert f"--env=PRECISION={HOSTILE}" in podman
    assert podman[-1] == "evaluate"


def test_the_commands_give_an_adapter_what_its_contract_says(tmp_path: Path) -> None:
    artifact = published("Q4_K_M")
    assert artifact.quality is not None
    text = artifact.quality.evaluation
    calls = run(evaluate_commands("s3://bucket/key", artifact.manifest, text), tmp_path)
    (podman,) = (call for call in calls if call[0] == "podman")
    given = [word.removeprefix("--env=") for word in podman if word.startswith("--env=")]
    task = Task.from_environment(dict(word.split("=", 1) for word in given))
    assert (task.format, task.precision, task.method) == ("Q4_K_M", "Q4_K_M", "Q4_K_M")
    asked = Prompts(Path("/work/inputs/prompts"), 8, 16)
    tasks = Tasks(Path("/work/inputs/tasks"), 32)
    assert task.evaluation == Evaluation(Path("/work/inputs/evaluation"), 64, 1000, asked, tasks)
    fetched = [call[-1] for call in calls if call[0] in ("hf", "aws")]
    inputs = [f"work/inputs/{name}" for name in ("evaluation", "prompts", "tasks")]
    assert fetched == ["work/source", *inputs, "work/artifact/folder/Q4_K_M"]
    assert (task.source, task.artifact) == (Path("/work/source"), Path("/work/artifact"))


def test_the_object_to_apply_is_the_same_recipe(tmp_path: Path) -> None:
    artifact = published(HOSTILE)
    assert artifact.quality is not None
    command = apply_command(artifact.manifest, artifact.quality.evaluation)
    done = subprocess.run(
        ["bash", "-eu", "-c", "kubectl() { cat; }\nset -f\n" + command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (tmp_path / "pwned").exists()
    spec = json.loads(done.stdout)["spec"]
    assert spec["source"] == {"uri": f"hf://{HOSTILE}", "revision": HOSTILE}
    assert spec["quantization"]["precision"] == HOSTILE
    assert spec["quantization"]["calibration"]["samples"] == 8
    assert spec["quality"]["evaluation"] == {
        "uri": f"s3://{HOSTILE}",
        "sequenceLength": 64,
        "maxTokens": 1000,
        "prompts": {"uri": f"s3://{HOSTILE}", "maxPrompts": 8, "answerTokens": 16},
        "tasks": {"uri": f"s3://{HOSTILE}", "maxSamples": 32},
    }


def test_the_object_to_apply_is_one_that_the_api_takes() -> None:
    artifact = published("harmless")
    assert artifact.quality is not None
    recipe = Recipe(
        format="GGUF",
        precision="Q4_K_M",
        method="Default",
        quantizer="llama-cpp",
        quantizer_image="image",
    )
    source = artifact.manifest.source.model_copy(update={"uri": "hf://owner/name"})
    calibrated = CalibrationRecord(
        uri="s3://texts/c.txt", identity="", size=1, sha256="", samples=8, sequence_length=64
    )
    manifest = artifact.manifest.model_copy(
        update={"recipe": recipe, "source": source, "calibration": calibrated}
    )
    text = artifact.quality.evaluation.model_copy(update={"uri": "s3://texts/e.txt"})
    command = apply_command(manifest, text)
    document = json.loads(command.removeprefix("kubectl apply -f - <<'EOF'").removesuffix("EOF"))
    spec = QuantizedModelSpec.model_validate(document["spec"])
    schema = REPOSITORY / "docs" / "reference" / "quantizedmodel.schema.json"
    jsonschema.validate(document, json.loads(schema.read_text()))
    assert spec.quantization.quantizer_name == "llama-cpp"
    assert spec.quality is not None


def test_a_workflow_is_told_in_place_of_its_method_and_shown() -> None:
    artifact = published("Q4_K_M")
    assert artifact.quality is not None
    passes = '{"passes":{"a":{"type":"Export"}}}'
    made_by = {"method": "Workflow", "workflow": passes}
    recipe = artifact.manifest.recipe.model_copy(update=made_by)
    manifest = artifact.manifest.model_copy(update={"recipe": recipe})
    command = apply_command(manifest, artifact.quality.evaluation)
    document = json.loads(command.removeprefix("kubectl apply -f - <<'EOF'").removesuffix("EOF"))
    assert document["spec"]["quantization"]["workflow"] == passes
    assert "method" not in document["spec"]["quantization"]
    assert f"WORKFLOW={passes}" in evaluate_commands(
        "s3://b/k", manifest, artifact.quality.evaluation
    )


def test_a_workflow_leaves_the_rest_its_room_in_a_termination_message() -> None:
    artifact = published("Q4_K_M")
    recipe = artifact.manifest.recipe.model_copy(update={"workflow": "x" * 8192})
    whole = replace(artifact, manifest=artifact.manifest.model_copy(update={"recipe": recipe}))
    models = StoreRef(bucket="models", endpoint="http://s3.example")
    said = PublishResult(published=Artifact(models, "c" * 64).summary(whole)).to_json()
    assert len(said.encode()) < TERMINATION_MESSAGE_BYTES
    assert '"method":"Q4_K_M"' in said


def test_a_measurement_of_one_artifact_is_drawn_whatever_its_figures_are() -> None:
    for size, divergence in ((0, 0.0), (1, 1e-6), (10**15, 12.5), (999, 1e-9)):
        point = Point("Q4_K_M", size, divergence, is_this=True)
        parsed = Parsed(plot([point]))
        (circle,) = (given for tag, given in parsed.elements if tag == "circle")
        assert 0 <= float(str(circle["cx"])) <= 720
        assert 0 <= float(str(circle["cy"])) <= 400


def test_what_is_beyond_the_limit_of_the_object_that_asked_is_told_from_the_rest() -> None:
    points = [Point("Q2_K", 100, 0.5), Point("Q4_0", 200, 0.05), Point("Q8_0", 300, 0.001)]
    parsed = Parsed(plot(points, Limit("team-a/phi", 0.05)))
    groups = [str(given["class"]) for tag, given in parsed.elements if tag == "g"]
    assert groups == ["beyond", "within", "within"], "equal is within"
    assert "limit of team-a/phi" in parsed.text
    (line,) = (given for _, given in parsed.elements if given.get("class") == "limit")
    circles = [float(str(given["cy"])) for tag, given in parsed.elements if tag == "circle"]
    assert circles[0] < float(str(line["y1"])) == circles[1] < circles[2]


def test_the_page_says_whose_limit_it_shows(measured: Bench) -> None:
    published = measured.convert(FILES)
    assert "The dashed line" not in report_of(measured, published).text
    measured.with_task(max_mean_kl_divergence="0.015").resolve()
    page = report_of(measured, published)
    owner = measured.task.referrer
    assert f"maxMeanKLDivergence of {owner.namespace}/{owner.name}, 0.015 nats" in page.text
    assert [given["class"] for tag, given in page.elements if tag == "g"] == ["beyond this"]
    measured.resolve()
    assert "The dashed line" not in report_of(measured, published).text


def test_smaller_is_left_and_better_is_below() -> None:
    small = Point("Q2_K", 100 << 20, 0.5)
    large = Point("Q8_0", 800 << 20, 0.0005, is_this=True)
    circles = [given for tag, given in Parsed(plot([large, small])).elements if tag == "circle"]
    (left, bad), (right, good) = (
        (float(str(each["cx"])), float(str(each["cy"]))) for each in circles
    )
    assert left < right
    assert bad < good, "further up is a greater divergence"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5 GiB")],
)
def test_sizes_are_said_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text
