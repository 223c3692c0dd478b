"""Measure with the project's own code and with what others trust, on the same windows.

    python references.py MODELS_DIR WORK_DIR

Runs where the toolchains are, as `faults.py` does. Prints one JSON object: for each figure its
name, `ours`, `theirs` and who they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantop_adapters import (
    answers,
    checkpoint,
    gguf_convert,
    harness,
    llama_cpp,
    perplexity,
    stage,
)
from quantop_adapters.comparison import Comparison

WINDOW = 256
WINDOWS = 32
PATTERNS = {
    "perplexity of the source": r"Mean PPL\(base\)\s*:\s*([0-9.]+)",
    "perplexity of the artifact": r"Mean PPL\(Q\)\s*:\s*([0-9.]+)",
    "mean KL divergence": r"Mean\s+KLD:\s*([0-9.]+)",
    "99th percentile of KL divergence": r"99\.0%\s+KLD:\s*([0-9.]+)",
    "top token agreement": r"Same top p:\s*([0-9.]+)",
}
"""What llama-perplexity --kl-divergence prints."""
NAMES = {
    "perplexity of the source": "baselinePerplexity",
    "perplexity of the artifact": "perplexity",
    "mean KL divergence": "meanKLDivergence",
    "99th percentile of KL divergence": "p99KLDivergence",
    "top token agreement": "topTokenAgreementPercent",
}


def transformers_own(source: Path, windows: list[list[int]]) -> Iterator[dict[str, Any]]:
    """The loss that transformers itself computes when it is given labels."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    losses = []
    with torch.inference_mode():
        for window in windows:
            ids = torch.tensor([window])
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    theirs = float(torch.tensor(losses).mean().exp())
    score = perplexity.transformers_scorer(source, "source")
    compared = Comparison()
    for window in windows:
        compared.add(window, score(window), score(window))
    ours = compared.report()["baselinePerplexity"]
    yield {
        "what": "perplexity of the source",
        "ours": ours,
        "theirs": theirs,
        "who": "transformers",
    }


def transformers_answers(source: Path, prompts: answers.Prompts) -> Iterator[dict[str, Any]]:
    """How many prompts get the same answer by transformers' own generation, greedy, as by ours."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    score, ends = perplexity.transformers_scorer(source, "source"), answers.ends(source)
    given = prompts.read(source)
    same = 0
    for ids in given:
        with torch.inference_mode():
            found = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=prompts.answer_tokens,
            )
        ours = list(answers.greedy(score, ids, prompts.answer_tokens, ends))
        same += found[0, len(ids) :].tolist() == ours
    yield {
        "what": "answers of the source",
        "ours": same,
        "theirs": len(given),
        "who": "transformers",
    }


def harness_accuracies(source: Path, tasks: harness.Tasks) -> Iterator[dict[str, Any]]:
    """The accuracies that lm-evaluation-harness's own model of transformers has."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(source), device="cpu", dtype="float32", batch_size=1)
    given = tasks.read()
    score = perplexity.transformers_scorer(source, "source")
    ours = harness.measure(given, tasks.most, score, source)
    for task in given:
        name, metric = task["task"], task["metric_list"][0]["metric"]
        report = evaluate(model, {"tasks": {name: harness.make(task)}}, limit=tasks.most)
        yield {
            "what": "accuracy in tasks",
            "ours": ours[name].share,
            "theirs": harness.accuracy(report, name, metric).share,
            "who": f"lm-evaluation-harness's hf ({name})",
        }


def llama_perplexity(source: Path, text: str, work: Path) -> Iterator[dict[str, Any]]:
    """llama.cpp's own comparison, which scores the second half of each window."""
    full, artifact, base = (work / name for name in ("full.gguf", "q4.gguf", "base.logits"))
    gguf_convert.convert(source, full, "reference", "F16")
    run("llama-quantize", full, artifact, "Q4_K_M", "1")
    (work / "text").write_text(text, encoding="utf-8")
    common = ("--file", work / "text", "--ctx-size", WINDOW, "--chunks", WINDOWS, "--threads", "1")
    run("llama-perplexity", "--model", full, "--kl-divergence-base", base, *common)
    theirs = figures(
        *("llama-perplexity", "--model", artifact, "--kl-divergence-base", base),
        *("--kl-divergence", "--ctx-size", WINDOW, "--threads", "1"),
    )
    engines = [llama_cpp.Engine(path, WINDOW, 1) for path in (full, artifact)]
    # It puts the beginning-of-text token first, and in place of each window's first token too.
    vocabulary = engines[0].vocabulary
    assert engines[0].library.llama_vocab_get_add_bos(vocabulary)
    first = engines[0].library.llama_vocab_bos(vocabulary)
    ids = [first, *engines[0].tokenize(text)]
    compared = Comparison()
    half = WINDOW // 2
    for start in range(0, WINDOWS * WINDOW, WINDOW):
        window = [first, *ids[start + 1 : start + WINDOW]]
        rows = [second_half(engine, window, half) for engine in engines]
        compared.add(window[half:], *rows)
    report = compared.report()
    for what, figure in theirs.items():
        yield {
            "what": what,
            "ours": report[NAMES[what]],
            "theirs": figure,
            "who": "llama-perplexity",
        }


def figures(*command: object) -> dict[str, float]:
    """What llama-perplexity printed, by the names of PATTERNS: its last lines, which on a busy
    machine may be lost while its exit status is 0.

    Raises:
        ToolError: it failed, or never printed them all.
    """

    def found(said: str) -> dict[str, float]:
        matches = {what: re.search(pattern, said) for what, pattern in PATTERNS.items()}
        return {what: float(match[1]) for what, match in matches.items() if match}

    said = llama_cpp.ask(list(map(str, command)), lambda said: len(found(said)) == len(PATTERNS))
    return found(said)


def second_half(engine: llama_cpp.Engine, window: list[int], half: int) -> list[Any]:
    """Copies of the logits behind the first `half` positions."""
    import numpy

    rows = numpy.concatenate([block.copy() for block in engine.score(window)])
    return [rows[half:]]


def run(*command: object) -> None:
    """Run a tool."""
    stage.run_tool(list(map(str, command)))


def main(arguments: list[str]) -> int:
    """Print the figures."""
    models, work = (Path(each).resolve() for each in arguments)
    source = models / "tiny-llama"
    text = perplexity.read_text(models / "evaluation.txt")
    ids = checkpoint.token_ids(source, text)
    windows = [list(window) for window in perplexity.windows(ids, WINDOW)[:WINDOWS]]
    figures = [
        *transformers_own(source, windows),
        *transformers_answers(source, answers.Prompts(models / "prompts.jsonl", 64, 32)),
        *harness_accuracies(source, harness.Tasks(models / "tasks", 100)),
        *llama_perplexity(source, text, work),
    ]
    print("figures: " + json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
