"""The demo: three manifests become three served models, watched until their endpoints answer.

    e2e/cluster/exec python -m e2e.demo

The operator and its store must be there (`python -m e2e.install`). Ends with 0 only if every
endpoint answered.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import openai
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from e2e.ask import ask, reach
from e2e.cluster.paths import REPOSITORY
from e2e.diagnose import diagnose
from e2e.install import ensure_namespace
from e2e.kubectl import Kubectl, Object, conditions, is_true, key
from e2e.store import Store

MANIFESTS = REPOSITORY / "examples" / "demo"
PROMPT = "The function returns"
POLL_SECONDS = 2.0
SHOWN = ("Quantized", "Verified", "Serving", "Ready")
MARKS = {"True": "[green]yes[/]", "False": "[yellow]no[/]", "Unknown": "[dim]…[/]"}


class DemoError(Exception):
    """The demo cannot go on."""


@dataclass
class Watch:
    """Follows the demo's objects; remembers what it said, to say only what is new."""

    kubectl: Kubectl
    wanted: list[str]
    """NAMESPACE/NAME of every object."""
    began: float = field(default_factory=time.monotonic)
    latest: dict[str, Object] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def poll(self) -> None:
        """Read the objects anew."""
        namespaces = {each.split("/")[0] for each in self.wanted}
        for namespace in sorted(namespaces):
            found = self.kubectl.find("quantizedmodels", namespace)
            self.latest |= {key(each): each for each in found if key(each) in self.wanted}

    def ready(self) -> list[Object]:
        return [each for each in self.latest.values() if is_true(each, "Ready")]

    def stalled(self) -> list[str]:
        return [name for name, each in self.latest.items() if is_true(each, "Stalled")]

    def settled(self) -> bool:
        """Whether every object is Ready or Stalled."""
        return len(self.ready()) + len(self.stalled()) == len(self.wanted)

    def news(self) -> Iterator[str]:
        """A line for each object whose progress changed since the last call."""
        for name, each in sorted(self.latest.items()):
            line = " ".join([*_states(each), _activity(each)])
            if self.said.get(name) != line:
                self.said[name] = line
                yield f"{time.monotonic() - self.began:5.0f} s  {name}  {line}"

    def table(self) -> Table:
        """The progress of every object, as it is now."""
        elapsed = time.monotonic() - self.began
        table = Table("model", *SHOWN, "now", title=f"{elapsed:.0f} s", title_justify="left")
        for name in self.wanted:
            each = self.latest.get(name, {})
            found = conditions(each) if each else {}
            marks = [MARKS[found.get(kind, {}).get("status", "Unknown")] for kind in SHOWN]
            table.add_row(name, *marks, _activity(each) if each else "")
        return table


def _states(model: Object) -> list[str]:
    found = conditions(model)
    return [f"{kind}={found[kind]['status']}" for kind in SHOWN if kind in found]


def _activity(model: Object) -> str:
    """What is being done about an object now, or what keeps it from going on."""
    found = conditions(model)
    if found.get("Stalled", {}).get("status") == "True":
        return f"{found['Stalled']['reason']}: {found['Stalled']['message']}"
    telling = "Reconciling" if found.get("Reconciling", {}).get("status") == "True" else "Ready"
    return str(found.get(telling, {}).get("message", ""))


def apply_manifests(kubectl: Kubectl, folder: Path, store: Store) -> list[str]:
    """Apply the demo's manifests, each namespace made first; NAMESPACE/NAME of every model.

    Raises:
        DemoError: there is no QuantizedModel among the manifests.
    """
    documents = [
        document
        for path in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    models = [key(each) for each in documents if each["kind"] == "QuantizedModel"]
    if not models:
        raise DemoError(f"no QuantizedModel in {folder}")
    for namespace in sorted({each.split("/")[0] for each in models}):
        ensure_namespace(kubectl, namespace, store)
    kubectl.apply_path(folder)
    return models


def follow(watch: Watch, console: Console, timeout: float) -> None:
    """Show the progress until everything is Ready or Stalled, or `timeout` seconds are over: as
    a live table on a terminal, as one line for each change elsewhere."""
    deadline = time.monotonic() + timeout
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            while not _finished(watch, deadline):
                live.update(watch.table())
            live.update(watch.table())
    else:
        finished = False
        while not finished:
            finished = _finished(watch, deadline)
            for line in watch.news():
                console.print(line, soft_wrap=True, markup=False, highlight=False)


def _finished(watch: Watch, deadline: float) -> bool:
    watch.poll()
    if watch.settled() or time.monotonic() > deadline:
        return True
    time.sleep(POLL_SECONDS)
    return False


def question(model: Object, prompt: str) -> str | None:
    """What a Ready model answers; None when it does not."""
    try:
        with reach(model) as url:
            return ask(url, model["status"]["endpoint"]["modelName"], prompt)
    except (openai.OpenAIError, ConnectionError) as error:
        print(f"{key(model)} did not answer: {error}", file=sys.stderr)
        return None


def result_table(models: Iterable[tuple[Object, str | None, str]], prompt: str) -> Table:
    """What came of each model: (object, answer, engine)."""
    table = Table(title=f"The same prompt to each: “{prompt}”", title_justify="left")
    for column in ("model", "format", "precision", "size", "of source", "bits/weight",
                   "perplexity before", "after", "same token", "engine", "answer"):  # fmt: skip
        table.add_column(column, overflow="fold")
    for model, answer, engine in models:
        artifact = model["status"]["artifact"]
        quality = model["status"].get("quality", {})
        table.add_row(
            model["metadata"]["name"],
            artifact["format"],
            artifact["precision"],
            f"{artifact['sizeBytes'] / 1e6:.2f} MB",
            f"{artifact['sizeBytes'] / artifact['sourceSizeBytes']:.2f}",
            artifact.get("bitsPerWeight", ""),
            quality.get("baselinePerplexity", ""),
            quality.get("perplexity", ""),
            f"{float(quality.get('topTokenAgreementPercent', 'nan')):.1f} %",
            engine,
            "no answer" if answer is None else " ".join(answer.split()),
        )
    return table


def engine_of(kubectl: Kubectl, model: Object) -> str:
    """The name of the ModelRuntime that serves an object: its own choice or the operator's."""
    name, namespace = model["metadata"]["name"], model["metadata"]["namespace"]
    deployment = kubectl.get("deployment", name, namespace)
    if deployment is None:
        return ""
    annotations: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return annotations.get("quantop.dev/runtime", "")


def look_around(models: list[str], local: bool) -> list[str]:
    """Commands for a person who wants to see more."""
    kubectl = "e2e/cluster/exec kubectl" if local else "kubectl"
    namespace, name = models[0].split("/")
    lines = [
        f"{kubectl} get quantizedmodels -A",
        f"{kubectl} describe qm -n {namespace} {name}",
        f"{kubectl} get jobs,pods,svc,hpa -n {namespace}",
    ]
    if local:
        url = f"http://{name}.{namespace}.svc.cluster.local/v1/models"
        lines += [f"e2e/cluster/exec curl -s {url}", "make cluster-down"]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--current", action="store_true", help="a cluster of yours, not the local")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    kubectl = Kubectl()

    watch = Watch(kubectl, apply_manifests(kubectl, options.manifests, Store.from_environment()))
    follow(watch, console, options.timeout)
    ready = sorted(watch.ready(), key=key)
    answers = [question(model, options.prompt) for model in ready]
    rows = [
        (model, answer, engine_of(kubectl, model))
        for model, answer in zip(ready, answers, strict=True)
    ]
    if rows:
        console.print(result_table(rows, options.prompt))
    answered = {key(model) for model, answer, _ in rows if answer}
    failed = [name for name in watch.wanted if name not in answered]
    for name in failed:
        for line in diagnose(kubectl, *name.split("/")):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print("Look around:", *look_around(watch.wanted, not options.current), sep="\n  ")
    console.print(f"{len(answered)} of {len(watch.wanted)} models answered")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
