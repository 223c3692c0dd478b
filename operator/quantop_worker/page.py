"""The page about an artifact's quality: pure, and all on one page without scripts or links.

Names, addresses and figures come from checkpoints, specs and other people's objects: none is
trusted, all are escaped. What goes into a command is quoted for the shell, too.
"""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from quantop.contract import BenchmarkState, Recipe

from quantop_worker.manifest import (
    CalibrationRecord,
    EvaluationRecord,
    Manifest,
    MeasuredQuality,
    Measurement,
    PromptsRecord,
    SourceRecord,
    StoredBenchmark,
    StoredQuality,
    StoredTrial,
    TasksRecord,
)
from quantop_worker.markup import Markup, element, join
from quantop_worker.plot import Limit, Point, plot, size_text
from quantop_worker.store import Published

WINDOWS_V1 = "windows-v1"
MOST_IN_A_SPEC = 8192
"""Characters of spec.quantization.workflow."""
STEPS = (
    "The text is tokenized with the source's own tokenizer, without special tokens, after the "
    "beginning-of-text token.",
    "The ids, at most as many as are asked for, are cut into consecutive windows of equal length "
    "that do not overlap; a last partial window is left out.",
    "Each window is scored alone: every position from the second on is predicted from all before "
    "it in the window.",
    "The source is scored in 32-bit floating point, the artifact by its own engine, at the same "
    "positions.",
)
PERPLEXITY = (
    "e to the power of the mean negative log likelihood of the token that follows, over all "
    "scored positions"
)
INCREASE = (
    "perplexity of the artifact over that of the source, less 1; the interval holds it with 95 % "
    "confidence: 1.96 standard errors of the mean difference of the log likelihoods, position by "
    "position"
)
DIVERGENCE = (
    "Kullback-Leibler divergence of the artifact's distribution of the next token from the "
    "source's, over the vocabulary: the sum of p times (ln p less ln q)"
)
AGREEMENT = "share of the positions at which both think the same token most likely"
ANSWERS = (
    "share of the prompts that both go on from with the same tokens, each the most likely one, to "
    "the end of the text or to the longest answer that is compared"
)
ACCURACY = (
    "share of {samples} documents that are answered right by {metric}, with its standard error, by "
    "lm-evaluation-harness through each engine; in percent"
)
PREFIX = "tokens before the first that differs, over those of the longer answer: the mean"
BITS = (
    "bits of all tensors, scales and zero points counted, over the number of weights; counted from "
    "the artifact's own files"
)
TRIED = (
    "Each was tried as the object named would serve it, in the engine on the node named, asked by "
    "one client, with no other load of its own (protocol trial-v1). First token: from a request to "
    "the first text of its answer, or to the answer of an engine that reads a text whole; tokens a "
    "second: those that followed the first, by the time that they took; both are medians. Peak "
    "memory: the most that the engine's processes had in use, added up, without a GPU's. Another "
    "node, other resources or more clients give other figures."
)
TRIED_BY_TOOLCHAIN = (
    "The method tried several ways and chose one by what it measured itself, in the conversion Job "
    "on node {node} ({processor}), with {threads} threads. On another node, or at another time, it "
    "may choose otherwise: the artifact's key names the recipe, and the first artifact made of it "
    "stays. To have one of these ways alone, give what is in the last column as "
    "spec.quantization.workflow."
)
HEAD = Markup(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --this: #0b62c4; --faint: #8885; }
@media (prefers-color-scheme: dark) { :root { --this: #6db3ff; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { background: Canvas; color: CanvasText; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem 1rem .3rem 0; text-align: left;
  vertical-align: top; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.this { font-weight: bold; color: var(--this); }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--faint); }
svg { width: 100%; height: auto; }
svg text { fill: currentColor; font-size: 12px; }
svg .grid { stroke: var(--faint); }
svg circle { stroke: currentColor; fill: none; stroke-width: 1.5; }
svg .limit { stroke: currentColor; stroke-dasharray: 6 4; }
svg .beyond circle { stroke-dasharray: 3 2; }
svg .this circle { stroke: none; fill: var(--this); }
svg .beyond.this circle { stroke: var(--this); fill: none; }
svg .this text { fill: var(--this); font-weight: bold; }
</style>
"""
)


def page(
    uri: str,
    published: Published,
    peers: Sequence[Measurement],
    written: str,
    limit: Limit | None = None,
    trials: Sequence[StoredTrial] = (),
    benchmark: StoredBenchmark | None = None,
) -> str:
    """The whole page.

    Args:
        uri: where the artifact is in the store.
        published: the artifact, with its quality.
        peers: the source's other artifacts that were measured on the same text.
        written: the time, for people.
        limit: that of the object that had the page written.
        trials: how these artifacts did in the engines of those that tried them.
        benchmark: what the toolchain measured itself when it made the artifact.
    """
    manifest, quality = published.manifest, published.quality
    assert quality is not None
    title = f"{manifest.recipe.format} {manifest.recipe.precision} of {manifest.source.uri}"
    own = Measurement(
        key=manifest.key,
        recipe=manifest.recipe,
        size_bytes=manifest.size_bytes,
        report=quality.report,
    )
    body = element(
        "body",
        element("h1", title),
        _figures(manifest, quality),
        _comparison(own, peers, limit),
        _trials([own, *peers], trials),
        _benchmark(benchmark),
        _measured(quality.report, quality.evaluation),
        _made(uri, published),
        _commands(uri, manifest, quality),
        element("p", f"Written by quantop at {written}."),
    )
    return join(HEAD, element("title", title), Markup("\n</head>\n"), body, Markup("\n</html>\n"))


def _figures(manifest: Manifest, quality: StoredQuality) -> Markup:
    """What it cost and what it saves, and how each number came about."""
    report = quality.report
    rows: list[tuple[str, ...]] = [
        (
            "size",
            size_text(manifest.source.size_bytes),
            f"{size_text(manifest.size_bytes)}, {_share(manifest)}",
            "bytes of all files that are read of the source, and of all that the artifact has",
        ),
        ("bits per weight", "", f"{report.bits_per_weight:.3f}", BITS),
        (
            "quantized layers",
            "",
            f"{report.quantized_layers} of {report.total_layers}",
            f"counted the same way, as are the {report.parameters} weights",
        ),
        *(_of_text(report) if quality.evaluation.uri else ()),
    ]
    if report.answer_agreement_percent is not None:
        rows += [
            ("answer agreement, %", "", _number(report.answer_agreement_percent, 3), ANSWERS),
            ("mean prefix, %", "", _number(report.mean_answer_prefix_percent, 3), PREFIX),
            ("prompts", "", str(report.prompts), "texts or conversations that were answered"),
        ]
    rows += [
        (
            f"accuracy in {task.name}",
            f"{task.baseline_percent:.3f} ± {task.baseline_error_percent:.3f}",
            f"{task.accuracy_percent:.3f} ± {task.error_percent:.3f}",
            ACCURACY.format(samples=task.samples, metric=task.metric),
        )
        for task in report.tasks
    ]
    others = (
        ("mean cosine similarity", None, report.mean_cosine_similarity, 6),
        ("1st percentile of it", None, report.p1_cosine_similarity, 6),
        ("label agreement, %", None, report.label_agreement_percent, 3),
        ("accuracy, %", report.baseline_accuracy_percent, report.accuracy_percent, 3),
    )
    rows += [
        (name, _number(source, digits) if source else "", _number(artifact, digits), "")
        for name, source, artifact, digits in others
        if artifact is not None
    ]
    if report.protocol != WINDOWS_V1:
        rows = [(*figures, "as its protocol defines it") for *figures, _ in rows]
    return join(
        element("h2", "Figures"),
        _table(("", "source", "artifact", "how it is obtained"), rows, numbers=(1, 2)),
    )


def _of_text(report: MeasuredQuality) -> list[tuple[str, ...]]:
    low, high = report.increase_percent_low, report.increase_percent_high
    interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    return [
        (
            "perplexity",
            _number(report.baseline_perplexity, 4),
            _number(report.perplexity, 4),
            PERPLEXITY,
        ),
        ("perplexity's increase, %", "", _signed(_increase(report)) + interval, INCREASE),
        ("mean KL divergence, nats", "", _number(report.mean_kl_divergence, 6), DIVERGENCE),
        (
            "99th percentile of it",
            "",
            _number(report.p99_kl_divergence, 6),
            "one position in a hundred diverges by more",
        ),
        (
            "top token agreement, %",
            "",
            _number(report.top_token_agreement_percent, 3),
            AGREEMENT,
        ),
        ("scored positions", "", str(report.tokens), "tokens that were predicted"),
    ]


def _comparison(own: Measurement, peers: Sequence[Measurement], limit: Limit | None) -> Markup:
    """This artifact among the source's others."""
    measurements = sorted([own, *peers], key=lambda each: (each.size_bytes, each.key))
    points = [
        Point(each.recipe.precision, each.size_bytes, divergence, each.key == own.key)
        for each in measurements
        if (divergence := each.report.mean_kl_divergence) is not None
        and math.isfinite(divergence)
        and divergence >= 0
    ]
    rows = [
        element(
            "tr",
            *_cells(
                (
                    f"{each.recipe.format} {each.recipe.precision}",
                    each.recipe.method,
                    size_text(each.size_bytes),
                    f"{each.report.bits_per_weight:.3f}",
                    _signed(_increase(each.report)),
                    _number(each.report.mean_kl_divergence, 6),
                    _number(each.report.top_token_agreement_percent, 3),
                    each.key[:16],
                ),
                numbers=(2, 3, 4, 5, 6),
            ),
            class_="this" if each.key == own.key else "other",
        )
        for each in measurements
    ]
    heads = (
        "artifact",
        "method",
        "size",
        "bits per weight",
        "perplexity's increase, %",
        "mean KL divergence",
        "top token agreement, %",
        "key",
    )
    return join(
        element("h2", "Size against quality"),
        element(
            "p",
            "All artifacts of this source that the store had when this page was written and that "
            "were measured by the same; this one is marked. The limits of spec.quality belong "
            "to each QuantizedModel: its status says which of these it may serve.",
            _drawn(limit) if limit and points else "",
        ),
        plot(points, limit)
        if points
        else element("p", "No divergence was measured: nothing to draw."),
        _table_of(heads, rows),
    )


def _trials(measurements: Sequence[Measurement], trials: Sequence[StoredTrial]) -> Markup:
    """How the artifacts did in the engines that serve them."""
    rows = [
        element(
            "tr",
            *_cells(
                (
                    f"{each.recipe.format} {each.recipe.precision}",
                    f"{stored.referrer.namespace}/{stored.referrer.name}",
                    f"{stored.trial.time_to_first_token_milliseconds:.3f}",
                    _number(stored.trial.tokens_per_second, 3),
                    size_text(peak) if (peak := stored.trial.peak_memory_bytes) else "not seen",
                    f"{stored.trial.runtime}, {stored.trial.cpus} cores",
                    f"{stored.trial.node}, {stored.trial.processor}",
                ),
                numbers=(2, 3, 4),
            ),
            class_="this" if each is measurements[0] else "other",
        )
        for each in measurements
        for stored in trials
        if stored.trial.key == each.key
    ]
    if not rows:
        return Markup("")
    heads = (
        "artifact",
        "tried for",
        "first token, ms",
        "tokens a second",
        "peak memory",
        "engine",
        "node",
    )
    return join(
        element("h2", "In the engine that serves"), element("p", TRIED), _table_of(heads, rows)
    )


def _benchmark(benchmark: StoredBenchmark | None) -> Markup:
    """The ways that the toolchain tried, and which one the artifact is."""
    if benchmark is None:
        return Markup("")
    candidates = benchmark.report.candidates
    names = list(dict.fromkeys(name for each in candidates for name in each.figures))
    rows = [
        element(
            "tr",
            *_cells(
                (
                    each.name,
                    f"{each.state}: {each.message}" if each.message else each.state,
                    *(f"{each.figures[n]:.10g}" if n in each.figures else "" for n in names),
                    each.workflow,
                ),
                numbers=range(2, 2 + len(names)),
            ),
            class_="this" if each.state is BenchmarkState.CHOSEN else "other",
        )
        for each in candidates
    ]
    told = TRIED_BY_TOOLCHAIN.format(
        node=benchmark.node or "unknown",
        processor=benchmark.processor,
        threads=benchmark.report.threads,
    )
    return join(
        element("h2", "What its toolchain tried"),
        element("p", told),
        _table_of(("way", "what became of it", *names, "workflow"), rows),
    )


def _drawn(limit: Limit) -> str:
    return (
        f" The dashed line is the maxMeanKLDivergence of {limit.owner}, {limit.divergence:g} nats, "
        "as it was then; what is above it is hollow and dashed, and is not rolled out there."
    )


def _measured(report: MeasuredQuality, given: EvaluationRecord) -> Markup:
    steps: Markup | str = ""
    if report.protocol != WINDOWS_V1:
        steps = element("p", "The Quantizer's image follows a protocol of its own.")
    elif given.uri:
        steps = element("ol", *(element("li", step) for step in STEPS))
    rows = [
        *_text(report, given),
        *_prompts(given.prompts),
        *_tasks(given.tasks),
        *([("compared with", report.baseline)] if report.baseline else []),
        ("measured by", _tool(report)),
    ]
    return join(element("h2", "How it was measured"), steps, _facts(rows))


def _text(report: MeasuredQuality, given: EvaluationRecord) -> list[tuple[str, str]]:
    if given.uri is None:
        return []
    return [
        ("protocol", report.protocol),
        ("text", given.uri),
        ("its identity", given.identity or ""),
        ("its sha256", given.sha256 or ""),
        ("its size", f"{given.size} bytes"),
        ("window", f"{given.sequence_length} tokens"),
        ("at most", f"{given.max_tokens} tokens"),
    ]


def _prompts(prompts: PromptsRecord | None) -> list[tuple[str, str]]:
    if prompts is None:
        return []
    return [
        ("prompts", prompts.uri),
        ("their identity", prompts.identity),
        ("their sha256", prompts.sha256),
        ("at most", f"{prompts.max_prompts} prompts, answers of {prompts.answer_tokens} tokens"),
    ]


def _tasks(tasks: TasksRecord | None) -> list[tuple[str, str]]:
    if tasks is None:
        return []
    return [
        ("tasks", tasks.uri),
        ("their identity", tasks.identity),
        ("digest of their files", tasks.digest),
        ("at most", f"{tasks.max_samples} documents of each"),
    ]


def _made(uri: str, published: Published) -> Markup:
    manifest = published.manifest
    recipe, source, text = manifest.recipe, manifest.source, manifest.calibration
    rows = [
        ("source", source.uri),
        ("revision", source.revision or "none"),
        ("identity", source.identity),
        ("digest of its files", source.digest),
        ("architecture", source.architecture),
        ("format", recipe.format),
        ("precision", recipe.precision),
        ("method", recipe.method),
        *([("workflow", recipe.workflow)] if recipe.workflow else []),
        *((f"precision of {o.tensors}", o.precision) for o in recipe.overrides),
        *([("a file at most", f"{most:,} bytes")] if (most := recipe.max_file_bytes) else []),
        ("Quantizer", recipe.quantizer),
        ("its image", recipe.quantizer_image),
        ("made by", " ".join((manifest.tool.name, manifest.tool.version))),
        ("calibration", _calibration(text) if text else "none"),
        ("artifact", uri),
        ("digest of its files", manifest.files_digest),
        ("sha256 of manifest.json", published.manifest_digest),
        ("provenance", f"{uri}/{manifest.provenance.object}"),
    ]
    return join(element("h2", "What it was made of"), _facts(rows))


def _commands(uri: str, manifest: Manifest, quality: StoredQuality) -> Markup:
    return join(
        element("h2", "To repeat it"),
        element(
            "p",
            "Make and measure it anew. A store that has the artifact answers with it: name another "
            "ModelStore in spec.storage.storeName.",
        ),
        element("pre", element("code", apply_command(manifest, quality.evaluation))),
        element(
            "p",
            "Measure this artifact again, by the evaluate stage of its Quantizer alone. The tools "
            "need credentials for the store, and its endpoint (AWS_ENDPOINT_URL).",
        ),
        element("pre", element("code", evaluate_commands(uri, manifest, quality.evaluation))),
    )


def apply_command(manifest: Manifest, given: EvaluationRecord) -> str:
    """A shell command that asks for the same recipe and measurement."""
    source, recipe = manifest.source, manifest.recipe
    spec: dict[str, Any] = {
        "source": {"uri": source.uri} | ({"revision": source.revision} if source.revision else {}),
        "quantization": {
            "format": recipe.format,
            "precision": recipe.precision,
            **_way(recipe),
            **({"overrides": _overrides(recipe)} if recipe.overrides else {}),
            **({"maxFileSize": recipe.max_file_bytes} if recipe.max_file_bytes else {}),
            "quantizerName": recipe.quantizer,
        },
        "quality": {"evaluation": {}},
    }
    evaluation = spec["quality"]["evaluation"]
    if given.uri:
        evaluation |= {
            "uri": given.uri,
            "sequenceLength": given.sequence_length,
            "maxTokens": given.max_tokens,
        }
    if given.prompts:
        evaluation["prompts"] = {
            "uri": given.prompts.uri,
            "maxPrompts": given.prompts.max_prompts,
            "answerTokens": given.prompts.answer_tokens,
        }
    if given.tasks:
        evaluation["tasks"] = {
            "uri": given.tasks.uri,
            "maxSamples": given.tasks.max_samples,
        }
    if manifest.calibration:
        spec["quantization"]["calibration"] = {
            "uri": manifest.calibration.uri,
            "samples": manifest.calibration.samples,
            "sequenceLength": manifest.calibration.sequence_length,
        }
    document = {
        "apiVersion": "quantop.dev/v1alpha1",
        "kind": "QuantizedModel",
        "metadata": {"name": f"repeat-{manifest.key[:16]}"},
        "spec": spec,
    }
    # JSON has no line break within a string, so that none can end the document early.
    return f"kubectl apply -f - <<'EOF'\n{json.dumps(document, indent=2)}\nEOF"


def evaluate_commands(uri: str, manifest: Manifest, given: EvaluationRecord) -> str:
    """Shell commands that run the evaluate stage as the adapter contract says."""
    recipe = manifest.recipe
    lines = [
        "mkdir -p work/source work/inputs work/state",
        *_source_commands(manifest.source),
        *(_text_commands(given.uri, "evaluation") if given.uri else ()),
        *(_text_commands(given.prompts.uri, "prompts") if given.prompts else ()),
        *(_text_commands(given.tasks.uri, "tasks", "--recursive") if given.tasks else ()),
        *(
            _command("aws", "s3", "cp", f"{uri}/{file.object}", f"work/artifact/{file.path}")
            for file in manifest.files
        ),
        "chmod -R a+rwX work",
        f"COMMAND=$({_command('kubectl', 'get', 'quantizer', recipe.quantizer)} "
        "-o jsonpath='{.spec.command[*]}')",
        "podman run --rm --network=none --read-only --tmpfs=/tmp --user=10001:10001 \\",
        '  --volume="$PWD/work:/work" \\',
        *(f"  {_command(f'--env={name}={value}')} \\" for name, value in _variables(recipe, given)),
        f"  {_command(recipe.quantizer_image)} $COMMAND evaluate",
        "cat work/state/quality.json",
    ]
    return "\n".join(lines)


def _source_commands(source: SourceRecord) -> list[str]:
    scheme, _, place = source.uri.partition("://")
    if scheme == "hf":
        at = ("--revision", source.revision) if source.revision else ()
        return [_command("hf", "download", place, *at, "--local-dir", "work/source")]
    if scheme == "s3":
        return [_command("aws", "s3", "cp", "--recursive", source.uri, "work/source")]
    return ["# Copy the source's files into work/source."]


def _text_commands(uri: str, name: str, *options: str) -> list[str]:
    if uri.startswith("s3://"):
        return [_command("aws", "s3", "cp", *options, uri, f"work/inputs/{name}")]
    return [f"# Copy what is given for {name} to work/inputs/{name}."]


def _variables(recipe: Recipe, given: EvaluationRecord) -> Iterable[tuple[str, str | int]]:
    return (
        ("HOME", "/tmp"),
        ("MODEL_NAME", "repeat"),
        ("FORMAT", recipe.format),
        ("PRECISION", recipe.precision),
        ("METHOD", recipe.method),
        ("WORKFLOW", recipe.workflow or ""),
        ("OVERRIDES", recipe.overrides_text),
        ("MAX_FILE_BYTES", recipe.max_file_bytes or ""),
        ("WORK_DIR", "/work"),
        ("SOURCE_DIR", "/work/source"),
        ("ARTIFACT_DIR", "/work/artifact"),
        ("QUALITY_FILE", "/work/state/quality.json"),
        *_text_variables(given),
        *_prompts_variables(given.prompts),
        *_tasks_variables(given.tasks),
    )


def _way(recipe: Recipe) -> dict[str, Any]:
    """The workflow, which stands in a method's place, or the method. One that has no room in a spec
    must be put where the command says."""
    if recipe.workflow and len(recipe.workflow) > MOST_IN_A_SPEC:
        return {"workflowFrom": {"uri": "s3://BUCKET/KEY"}}
    if recipe.workflow:
        return {"workflow": recipe.workflow}
    return {"method": recipe.method} if recipe.method else {}


def _overrides(recipe: Recipe) -> list[dict[str, str]]:
    return [override.model_dump() for override in recipe.overrides]


def _text_variables(given: EvaluationRecord) -> list[tuple[str, str | int]]:
    if given.uri is None:
        return []
    return [
        ("EVALUATION_FILE", "/work/inputs/evaluation"),
        ("EVALUATION_SEQUENCE_LENGTH", given.sequence_length),
        ("EVALUATION_MAX_TOKENS", given.max_tokens),
    ]


def _tasks_variables(tasks: TasksRecord | None) -> list[tuple[str, str | int]]:
    if tasks is None:
        return []
    return [
        ("EVALUATION_TASKS_DIR", "/work/inputs/tasks"),
        ("EVALUATION_MAX_SAMPLES", tasks.max_samples),
    ]


def _prompts_variables(prompts: PromptsRecord | None) -> list[tuple[str, str | int]]:
    if prompts is None:
        return []
    return [
        ("EVALUATION_PROMPTS_FILE", "/work/inputs/prompts"),
        ("EVALUATION_MAX_PROMPTS", prompts.max_prompts),
        ("EVALUATION_ANSWER_TOKENS", prompts.answer_tokens),
    ]


def _command(*words: str) -> str:
    return shlex.join(words)


def _increase(report: MeasuredQuality) -> float | None:
    if report.perplexity is None or not report.baseline_perplexity:
        return None
    return (report.perplexity / report.baseline_perplexity - 1) * 100


def _share(manifest: Manifest) -> str:
    return f"{100 * manifest.size_bytes / max(1, manifest.source.size_bytes):.1f} % of it"


def _tool(report: MeasuredQuality) -> str:
    return f"{report.tool.name} {report.tool.version}".strip() or "unknown"


def _calibration(text: CalibrationRecord) -> str:
    return (
        f"{text.uri}, sha256 {text.sha256}: {text.samples} sequences of {text.sequence_length} "
        "tokens"
    )


def _number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.3f}"


def _facts(rows: Iterable[tuple[str, str]]) -> Markup:
    return element(
        "table",
        *(
            element("tr", element("th", what), element("td", element("code", said)))
            for what, said in rows
            if said.strip()
        ),
    )


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> Markup:
    return _table_of(heads, [element("tr", *_cells(row, numbers)) for row in rows])


def _table_of(heads: Sequence[str], rows: Sequence[Markup]) -> Markup:
    return element("table", element("tr", *(element("th", head) for head in heads)), *rows)


def _cells(row: Sequence[str], numbers: Sequence[int]) -> list[Markup]:
    return [
        element("td", text, **({"class_": "number"} if index in numbers else {}))
        for index, text in enumerate(row)
    ]
