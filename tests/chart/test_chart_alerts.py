"""The chart's alerts, by Prometheus' own tool."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from quantop import metrics
from quantop.reasons import ConditionType

from e2e.cluster import toolchain
from tests.chart.helm import CHART

RULES = CHART / "files" / "prometheus-rules.yaml"
TESTS = Path(__file__).with_name("prometheus-rules.test.yaml")
ALERTS = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it, built where it was not yet."""
    toolchain.build(["prometheus"], print)
    return subprocess.run(
        [toolchain.binary("promtool"), *arguments], capture_output=True, text=True, timeout=60
    )


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_alerts_fire_where_they_should_and_nowhere_else() -> None:
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("> 10", "> 13"),
        ("points > 5", "points > 8"),
        ('type="Reconciling"} == 1', 'type="Reconciling"} >= 0'),
        ("15m]", "1m]"),
    ],
)
def test_a_wrong_rule_is_seen(tmp_path: Path, right: str, wrong: str) -> None:
    """Else the tests' agreement would mean nothing."""
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    assert right in RULES.read_text()
    rules.write_text(RULES.read_text().replace(right, wrong))
    cases = yaml.safe_load(TESTS.read_text()) | {"rule_files": [str(rules)]}
    tests.write_text(yaml.safe_dump(cases))
    assert promtool("test", "rules", tests).returncode != 0


def test_every_alert_is_seen_firing() -> None:
    fired = {
        test["alertname"]
        for case in yaml.safe_load(TESTS.read_text())["tests"]
        for test in case["alert_rule_test"]
        if test["exp_alerts"]
    }
    assert fired == ALERTS.keys()


def test_alerts_ask_for_metrics_and_conditions_that_there_are() -> None:
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for family in metric.collect()
    }
    for expression in ALERTS.values():
        named = set(re.findall(r"\bquantop_\w+", expression))
        assert named
        assert named <= there
        assert set(re.findall(r'type="(\w+)"', expression)) <= set(ConditionType)
