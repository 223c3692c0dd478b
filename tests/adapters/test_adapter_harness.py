"""Task files are data: what would run code, or read anything but the folder, is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from quantop.contract import TaskReport
from quantop_adapters import harness
from quantop_adapters.harness import Accuracy, Tasks
from quantop_adapters.refusal import RefusedError

TASK: dict[str, Any] = {
    "task": "one",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/one.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task of one document, beside a file that is none of its business."""
    (tmp_path / "secret.jsonl").write_text("{}")
    inside = tmp_path / "tasks"
    (inside / "data").mkdir(parents=True)
    (inside / "data" / "one.jsonl").write_text('{"question": "?", "answer": 0}')
    write(inside, TASK)
    return inside


def write(folder: Path, task: dict[str, Any], name: str = "one.yaml") -> None:
    (folder / name).write_text(yaml.safe_dump(task))


def read(folder: Path) -> list[dict[str, Any]]:
    return Tasks(folder, 10).read()


def test_an_image_without_the_harness_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RefusedError, match="has no lm-evaluation-harness: remove it") as refused:
        harness.check_installed()
    assert refused.value.reason == "UnsupportedEvaluation"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "found")
    harness.check_installed()


def test_a_task_is_read_with_the_whole_path_of_its_data(folder: Path) -> None:
    (task,) = read(folder)
    data = {"data_files": {"test": str(folder / "data" / "one.jsonl")}}
    assert task == TASK | {"dataset_kwargs": data}


def test_what_a_file_says_itself_wins_over_what_it_includes(folder: Path) -> None:
    (folder / "more").mkdir()
    two = {"include": "../one.yaml", "task": "two", "doc_to_text": "other"}
    write(folder, two, "more/two.yaml")
    found = {task["task"]: task for task in read(folder)}
    assert found["two"]["doc_to_text"] == "other"
    assert found["two"]["dataset_kwargs"] == found["one"]["dataset_kwargs"]
    assert "include" not in found["two"]


def test_a_file_without_a_task_is_only_there_to_be_included(folder: Path) -> None:
    write(folder, {"num_fewshot": 3}, "common.yaml")
    write(folder, TASK | {"include": ["common.yaml"]})
    (task,) = read(folder)
    assert task["num_fewshot"] == 3


STRANGE = {
    "process_docs": "the key 'process_docs'",
    "custom_dataset": "the key 'custom_dataset'",
    "class": "the key 'class'",
    "unsafe_code": "the key 'unsafe_code'",
    "use_prompt": "the key 'use_prompt'",
    "doc_to_image": "the key 'doc_to_image'",
    "process_results": "the key 'process_results'",
}
CHANGES: list[tuple[dict[str, Any], str]] = [
    *(({key: "any"}, said) for key, said in STRANGE.items()),
    ({"dataset_path": "owner/name"}, "dataset_path 'owner/name'"),
    ({"dataset_path": None}, "dataset_path 'None'"),
    ({"dataset_name": "default"}, "the key 'dataset_name'"),
    ({"dataset_kwargs": {"data_files": "../secret.jsonl"}}, "names '../secret.jsonl'"),
    ({"dataset_kwargs": {"data_files": ["data/absent.jsonl"]}}, "names 'data/absent.jsonl'"),
    ({"dataset_kwargs": {"data_files": "https://example.com/d.jsonl"}}, "names 'https://exa"),
    ({"dataset_kwargs": {"data_files": "one.yaml"}}, "end in .json or .jsonl"),
    ({"dataset_kwargs": {}}, "data_files must name files"),
    ({"dataset_kwargs": {"data_files": "data/one.jsonl", "data_dir": "/"}}, "kwargs 'data_dir'"),
    ({"dataset_kwargs": "data/one.jsonl"}, "dataset_kwargs 'data/one.jsonl'"),
    ({"output_type": "loglikelihood_rolling"}, "output_type 'loglikelihood_rolling'"),
    ({"metric_list": [{"metric": "./metric.py"}]}, "the metric './metric.py'"),
    ({"metric_list": None}, "the metric 'None'"),
    ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "hf_evaluate 'True'"),
    ({"metric_list": [{"metric": "acc", "aggregation": "f1"}]}, "aggregation 'f1'"),
    ({"metric_list": ["acc"]}, "a value of another kind"),
    ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "filter 'custom'"),
    ({"generation_kwargs": {"do_sample": True}}, "only greedy answers"),
    ({"generation_kwargs": {"temperature": 0.7}}, "only greedy answers"),
    ({"generation_kwargs": {"num_beams": 4}}, "generation_kwargs 'num_beams'"),
    ({"fewshot_config": {"samples": []}}, "fewshot_config 'samples'"),
    ({"task": ["one", "two"]}, "groups are not supported"),
    ({"task": "a/../b"}, "a task called 'a/../b'"),
    ({"include": "../../etc/passwd"}, "names '../../etc/passwd'"),
    ({"include": "one.yaml"}, "includes itself"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[said for _, said in CHANGES])
def test_what_is_not_data_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    write(folder, TASK | change)
    with pytest.raises(RefusedError) as refusal:
        read(folder)
    assert refusal.value.reason == "TasksUnusable"
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "line",
    [
        "process_docs: !function utils.process_docs",
        "doc_to_text: !function os.getcwd",
        "doc_to_text: !!python/object/apply:os.getcwd []",
        "doc_to_text: !!python/name:os.system",
    ],
)
def test_no_tag_is_read_that_runs_code(folder: Path, line: str) -> None:
    (folder / "utils.py").write_text("raise SystemExit('it ran')")
    lines = [each for each in yaml.safe_dump(TASK).splitlines() if "doc_to_text" not in each]
    (folder / "one.yaml").write_text("\n".join([*lines, line]))
    with pytest.raises(RefusedError, match="tags run code, and are not supported"):
        read(folder)


def test_a_link_does_not_lead_out(folder: Path) -> None:
    (folder / "data" / "two.jsonl").symlink_to(folder.parent / "secret.jsonl")
    write(folder, TASK | {"dataset_kwargs": {"data_files": "data/two.jsonl"}})
    with pytest.raises(RefusedError, match="is no file in the folder"):
        read(folder)


def more(count: int) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        for index in range(count):
            write(folder, TASK | {"task": f"more-{index}"}, f"{index}.yaml")

    return add


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "one.yaml").unlink(), "holds 0 tasks"),
        (lambda folder: write(folder, TASK, "again.yaml"), "each with a name of its own"),
        (more(8), "holds 9 tasks"),
        (lambda folder: (folder / "list.yaml").write_text("[1]"), "list.yaml, which is no mapping"),
        (lambda folder: (folder / "bad.yaml").write_bytes(b"\xff"), "bad.yaml, which is not plain"),
    ],
)
def test_a_folder_that_is_none_of_tasks_is_refused(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)
    with pytest.raises(RefusedError, match=said):
        read(folder)


def test_as_many_tasks_as_a_status_lists_are_read(folder: Path) -> None:
    more(7)(folder)
    assert len(read(folder)) == 8


def test_the_task_that_lost_the_most_comes_first() -> None:
    ours = {name: Accuracy(0.5, 0.05, 100, "acc") for name in ("a", "b", "c")}
    theirs = {
        "a": Accuracy(0.45, 0.0497, 100, "acc"),
        "b": Accuracy(0.38, 0.0488, 100, "acc"),
        "c": Accuracy(0.6, 0.0492, 100, "acc"),
    }
    found: dict[str, Any] = harness.compare(ours, theirs)
    assert found["taskAccuracyDropPoints"] == 12
    assert [task["name"] for task in found["tasks"]] == ["b", "a", "c"]
    assert found["tasks"][0] == {
        "name": "b",
        "metric": "acc",
        "samples": 100,
        "baselinePercent": 50,
        "baselineErrorPercent": 5,
        "accuracyPercent": 38,
        "errorPercent": 4.88,
    }
    report = [TaskReport.model_validate(task) for task in found["tasks"]]
    assert [task.baseline_error_percent for task in report] == [5, 5, 5], "publish reads the names"
    assert len(json.dumps(found["tasks"][0])) < 170, "eight of them go into 4096 bytes, with more"


def test_a_gain_is_a_drop_below_nothing() -> None:
    found = harness.compare({"a": Accuracy(0.5, 0, 1, "acc")}, {"a": Accuracy(0.625, 0, 1, "acc")})
    assert found["taskAccuracyDropPoints"] == -12.5
