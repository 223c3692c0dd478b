"""Accuracy in tasks by lm-evaluation-harness, by the protocol `tasks-v1`.

Its YAML files are read as data: what would run code, and what would read anything but the folder's
own files, is refused by name, and templates are filled in jinja's sandbox. Source and artifact are
asked the same through the same interface, whatever the engine.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantop_adapters import answers, checkpoint
from quantop_adapters.comparison import log_softmax
from quantop_adapters.perplexity import Scorer
from quantop_adapters.refusal import RefusedError

FIELD = "spec.quality.evaluation.tasks"
MOST = 8
"""Tasks of a folder: a status lists them all."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
CONTEXT = 2048
"""Tokens that a question and its answer have together at most; what is longer loses its beginning.
As many as lm-evaluation-harness takes where a model does not say."""
SEED = 1234
"""Of the examples that are put before a question: lm-evaluation-harness's own."""
DATA = {"json": (".json", ".jsonl"), "csv": (".csv",), "parquet": (".parquet",), "text": (".txt",)}
"""Kinds of data, as `dataset_path` names them, and how their files end."""
DATA_OPTIONS = frozenset({"column_names", "delimiter", "field", "sample_by"})
OUTPUTS = ("multiple_choice", "loglikelihood", "generate_until")
METRICS = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Those that are a share of the documents."""
FILTERS = frozenset(
    {"lowercase", "multi_choice_regex", "regex", "regex_pos", "remove_whitespace", "take_first"}
    | {"uppercase"}
)
GENERATION = frozenset({"do_sample", "max_gen_toks", "temperature", "until"})
IGNORED = frozenset({"metadata", "tag", "task_alias"})
TEMPLATES = ("description", "doc_to_choice", "doc_to_target", "doc_to_text", "gen_prefix")
KEYS = frozenset(
    {
        *TEMPLATES,
        *("dataset_kwargs", "dataset_path", "fewshot_config", "fewshot_delimiter"),
        *("fewshot_split", "filter_list", "generation_kwargs", "metric_list", "num_fewshot"),
        *("output_type", "target_delimiter", "task", "test_split", "training_split"),
        "validation_split",
    }
)


@dataclass(frozen=True)
class Tasks:
    """A folder of task files, and how many documents of each are used at most."""

    folder: Path
    most: int

    def read(self) -> list[dict[str, Any]]:
        """What the folder's YAML files say of each task.

        Raises:
            RefusedError: there is none, there are too many, or one says what is not allowed.
        """
        files = sorted(self.folder.rglob("*.yaml"))
        found = [task for file in files if "task" in (task := self._load(file, ()))]
        try:
            names = [check(task) for task in found]
        except (AttributeError, KeyError, TypeError) as error:
            raise unusable(
                f"has a YAML file with a value of another kind than its key takes ({error!r})"
            ) from error
        if not 0 < len(names) <= MOST or len(set(names)) < len(names):
            raise unusable(
                f"holds {len(names)} tasks ({', '.join(names)[:200] or 'no YAML file with `task`'})"
                f": give 1 to {MOST}, each with a name of its own"
            )
        return found

    def _load(self, file: Path, within: tuple[Path, ...]) -> dict[str, Any]:
        """A file's keys, over those of the files that it includes."""
        yaml: Any = importlib.import_module("yaml")
        said = file.relative_to(self.folder)
        try:
            content = yaml.safe_load(file.read_text("utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise unusable(
                f"has {said}, which is not plain YAML ({problem[:200]}): !function and other tags "
                "run code, and are not supported"
            ) from None
        if not isinstance(content, dict):
            raise unusable(f"has {said}, which is no mapping of keys to values")
        included = content.pop("include", [])
        merged: dict[str, Any] = {}
        for name in included if isinstance(included, list) else [included]:
            path = inside(self.folder, file.parent, name)
            if path in (*within, file):
                raise unusable(f"has {said}, which includes itself")
            merged |= self._load(path, (*within, file))
        data = content.get("dataset_kwargs")
        if isinstance(data, dict) and "data_files" in data:
            data["data_files"] = self._data(file.parent, data["data_files"])
        return {**merged, **content}

    def _data(self, base: Path, named: Any) -> Any:
        """`data_files` with the whole paths of files that are in the folder."""
        if isinstance(named, dict):
            return {str(split): self._data(base, each) for split, each in named.items()}
        if isinstance(named, list):
            return [self._data(base, each) for each in named]
        return str(inside(self.folder, base, named))


def check_installed() -> None:
    """Look for lm-evaluation-harness before anything is loaded.

    Raises:
        RefusedError: it is not in this image.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise RefusedError(
            "UnsupportedEvaluation",
            f"{FIELD} is set, but the Quantizer's image has no lm-evaluation-harness: remove it, "
            "or choose another Quantizer",
        )


def unusable(what: str) -> RefusedError:
    """The refusal of a folder of tasks."""
    return RefusedError("TasksUnusable", f"{FIELD} {what}")


def inside(folder: Path, base: Path, name: Any) -> Path:
    """A file of the folder by a name that is relative to `base`.

    Raises:
        RefusedError: there is none, or the name leads out of the folder.
    """
    path = (base / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise unusable(
            f"has a file that names {str(name)!r}, which is no file in the folder: put it there, "
            "and name it relative to the YAML file"
        )
    return path


def check(task: Mapping[str, Any]) -> str:
    """The name of a task that is nothing but data.

    Raises:
        RefusedError: with the key that is not allowed.
    """
    name = task["task"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise unusable(
            f"has a task called {str(name)[:80]!r}: a name has letters, digits, '_', '.' and '-', "
            "32 at most; groups are not supported"
        )

    def known(where: str, given: Any, allowed: frozenset[str]) -> None:
        keys = set(map(str, given)) if isinstance(given, dict) else {str(given)}
        if strange := sorted(keys - allowed):
            raise unusable(
                f"has task {name} with {where} {strange[0][:80]!r}, which may run code, read other "
                f"files or means nothing here; allowed are {', '.join(sorted(allowed))}"
            )

    known("the key", task, KEYS | IGNORED)
    known("dataset_path", task.get("dataset_path"), frozenset(DATA))
    known("output_type", task.get("output_type", "generate_until"), frozenset(OUTPUTS))
    data = task.get("dataset_kwargs") or {}
    known("dataset_kwargs", data, DATA_OPTIONS | {"data_files"})
    files = data.get("data_files", {})
    lists = files.values() if isinstance(files, dict) else [files]
    paths = [path for each in lists for path in (each if isinstance(each, list) else [each])]
    if not paths or not all(str(path).endswith(DATA[task["dataset_path"]]) for path in paths):
        raise unusable(
            f"has task {name}, whose dataset_kwargs.data_files must name files that end in "
            f"{' or '.join(DATA[task['dataset_path']])}"
        )
    for measured in task.get("metric_list") or [{"metric": None}]:
        known("the metric", measured.get("metric"), frozenset(METRICS))
        known("aggregation", measured.get("aggregation", "mean"), frozenset({"mean"}))
        known("hf_evaluate", measured.get("hf_evaluate", False), frozenset({"False"}))
    for chain in task.get("filter_list") or []:
        for step in chain["filter"]:
            known("the filter", step.get("function"), FILTERS)
    generated = task.get("generation_kwargs") or {}
    known("generation_kwargs", generated, GENERATION)
    if generated.get("do_sample") or generated.get("temperature"):
        raise unusable(f"has task {name}, which samples: only greedy answers can be compared")
    known("fewshot_config", task.get("fewshot_config") or {}, frozenset({"sampler", "split"}))
    return name


def context_length(source: Path) -> int:
    """Tokens that a question and its answer have together at most."""
    said = checkpoint.read_json(source / "config.json").get("max_position_embeddings")
    return min(CONTEXT, said) if isinstance(said, int) else CONTEXT


@dataclass(frozen=True)
class Accuracy:
    """The share of a task's documents that were answered right, its standard error, and of how
    many documents and by which metric that is."""

    share: float
    error: float
    samples: int
    metric: str


def measure(
    tasks: Sequence[Mapping[str, Any]], most: int, score: Scorer, source: Path
) -> dict[str, Accuracy]:
    """The accuracy in each task of what `score` reads with, by the source's tokenizer.

    Raises:
        RefusedError: lm-evaluation-harness cannot make questions of a task's documents.
    """
    jinja: Any = importlib.import_module("jinja2")
    sandbox: Any = importlib.import_module("jinja2.sandbox")
    utils: Any = importlib.import_module("lm_eval.utils")
    if not isinstance(utils.env, sandbox.SandboxedEnvironment):
        filters = utils.env.filters
        utils.env = sandbox.SandboxedEnvironment(
            undefined=jinja.StrictUndefined, keep_trailing_newline=True
        )
        utils.env.filters |= filters
    evaluator: Any = importlib.import_module("lm_eval.evaluator")
    lm = language_model(score, source)
    found = {}
    for task in tasks:
        name = task["task"]
        try:
            report = evaluator.evaluate(
                lm, {"tasks": {name: make(task)}}, limit=most, log_samples=False
            )
        except (MemoryError, RuntimeError):  # the engine's
            raise
        except Exception as error:  # of the data's reader, of jinja, of whatever a key means
            raise unusable(
                f"has task {name}, which lm-evaluation-harness cannot make questions of "
                f"({type(error).__name__}: {checkpoint.first_sentence(error)})"
            ) from error
        found[name] = accuracy(report, name, task["metric_list"][0]["metric"])
    return found


def make(task: Mapping[str, Any]) -> Any:
    """lm-evaluation-harness's task."""
    library: Any = importlib.import_module("lm_eval.api.task")
    used = {key: value for key, value in task.items() if key not in IGNORED}
    made = library.ConfigurableTask(
        config=copy.deepcopy({**used, "num_fewshot": task.get("num_fewshot") or 0})
    )
    made.set_fewshot_seed(SEED)
    return made


def accuracy(report: Mapping[str, Any], name: str, metric: str) -> Accuracy:
    """What lm-evaluation-harness found by the metric; by the first of the task's chains of filters
    where there are several."""
    figures = report["results"][name]
    key = next(key for key in figures if key.partition(",")[0] == metric)
    error = figures[key.replace(",", "_stderr,", 1)]
    return Accuracy(
        float(figures[key]),
        # Of a single document there is none.
        float(error) if isinstance(error, float) else 0.0,
        int(report["n-samples"][name]["effective"]),
        metric,
    )


def language_model(score: Scorer, source: Path) -> Any:
    """What lm-evaluation-harness asks, answered as its own `hf` model does."""
    api: Any = importlib.import_module("lm_eval.api.model")
    utils: Any = importlib.import_module("lm_eval.models.utils")
    numpy: Any = importlib.import_module("numpy")
    tokenizer = checkpoint.load_tokenizer(source)
    ends, length = answers.ends(source), context_length(source)
    end, first = tokenizer.eos_token_id, tokenizer.bos_token_id
    before = end if first is None else first

    def word(token: int | None) -> str | None:
        return None if token is None else str(tokenizer.decode([token]))

    class Model(api.TemplateLM):  # type: ignore[misc]
        eot_token_id = end
        prefix_token_id = before

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            """A text's ids; with those that the tokenizer puts before one, if it has none yet."""
            if add_special_tokens is None:
                start = word(before)
                add_special_tokens = start is None or not string.startswith(start)
            return list(tokenizer(string, add_special_tokens=add_special_tokens).input_ids)

        def _loglikelihood_tokens(
            self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            """How likely each continuation is, and whether it is the greedy one."""
            read: list[int] = []
            rows: Any = None
            found = []
            for _text, context, continuation in requests:
                given = (context + continuation)[-(length + 1) : -1]
                # Choices of one token follow on the same text.
                if given != read:
                    blocks = [numpy.array(block) for block in score(given)]
                    read, rows = given, log_softmax(numpy.concatenate(blocks))
                said = rows[-len(continuation) :]
                likely = said[numpy.arange(len(continuation)), continuation].sum()
                greedy = (said.argmax(axis=-1) == continuation).all()
                found.append((float(likely), bool(greedy)))
            return found

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            """The greedy answers, up to what ends them."""
            found = []
            for context, options in (request.args for request in requests):
                options = utils.normalize_gen_kwargs(options)
                stops = utils.handle_stop_sequences(options["until"], word(end))
                most = min(options["max_gen_toks"], length - 1)
                given, ids, text = self.tok_encode(context)[-(length - most) :], [], ""
                for token in answers.greedy(score, given, most, ends):
                    ids.append(token)
                    text = tokenizer.decode(ids)
                    if any(stop in text for stop in stops if stop):
                        break
                text = tokenizer.decode(ids, skip_special_tokens=True)
                found.append(utils.postprocess_generated_text(text, stops, None))
            return found

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            """Of tasks that measure perplexity, which `windows-v1` does."""
            raise AssertionError("such tasks are refused")

    return Model()


def compare(ours: Mapping[str, Accuracy], theirs: Mapping[str, Accuracy]) -> dict[str, object]:
    """The measurements of source and artifact by their names, with the task first that lost the
    most."""
    found = [
        {
            "name": name,
            "metric": ours[name].metric,
            "samples": ours[name].samples,
            "baselinePercent": round(100 * ours[name].share, 3),
            "baselineErrorPercent": round(100 * ours[name].error, 3),
            "accuracyPercent": round(100 * theirs[name].share, 3),
            "errorPercent": round(100 * theirs[name].error, 3),
        }
        for name in sorted(ours, key=lambda name: (theirs[name].share - ours[name].share, name))
    ]
    worst = found[0]["name"]
    drop = round(100 * (ours[str(worst)].share - theirs[str(worst)].share), 3)
    return {"taskAccuracyDropPoints": drop, "tasks": found}
