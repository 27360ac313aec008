"""What ``/metrics`` says, and that dashboard and alert rules ask for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.domain.refusal import RefusalCode
from app.node.peers import DeliverPolicy, Destination, TlsPolicy
from app.node.policy import NodePolicy
from app.node.receive.reception import Reception, ReceptionEvent
from app.node.records.audit import AuditEvent
from app.node.records.runs import RunTransition
from app.node.records.states import RunKey, StudyState
from app.node.records.stores import NodeStores, open_stores
from app.node.watch import metrics as room
from app.node.watch.metrics import Measured, NodeMetrics
from tests.node.watch.asking import ask
from tests.node.workflow.peers import FakePacs, NodeProcess, free_port, wait_until
from tests.node.workflow.test_commands import delivered, ended, queued

ROOT = Path(__file__).resolve().parents[3]
MONITORING = ROOT / "MAP" / "monitoring"
PAGE = ROOT / "docs" / "reference" / "metrics.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def stores(tmp_path: Path) -> NodeStores:
    return open_stores(NodePolicy(data_dir=tmp_path / "data"))


def new_metrics(stores: NodeStores, tmp_path: Path) -> NodeMetrics:
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", 104),))
    return NodeMetrics(stores, Measured(NodePolicy(data_dir=tmp_path / "data"), deliver, TlsPolicy(), "1.0"))


def samples(page: str) -> Samples:
    families = text_string_to_metric_families(page)
    return {(one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples}


def value(metrics: NodeMetrics, name: str, **labels: str) -> float:
    return samples(metrics.page().decode())[f"psma_node_{name}", frozenset(labels.items())]


def test_studies_queue_deliveries_and_disk_are_looked_at(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    queued(stores, "1.1")
    ended(stores, "1.2", RunTransition(StudyState.REJECTED, "no"))
    ended(stores, "1.3", RunTransition(StudyState.FAILED, "no", at_fault=True))
    delivered(stores, "1.4")
    stores.studies.observe("1.5", StudyState.WAITING, "a CT")
    metrics.look()
    ends = ("queued", "rejected", "failed", "done")
    states = {state: value(metrics, "studies", state=state) for state in ends}
    assert states == {"queued": 1, "rejected": 1, "failed": 1, "done": 1}
    assert value(metrics, "studies", state="waiting") == 1
    assert value(metrics, "queue_age_seconds") > 0
    assert value(metrics, "deliveries", destination="pacs", state="pending") == 0
    assert value(metrics, "destination_last_success_timestamp_seconds", destination="pacs") > 1.5e9
    assert value(metrics, "disk_free_bytes") > 0
    assert value(metrics, "info", version="1.0") == 1


def test_a_study_under_way_has_an_age_of_its_own(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    stores.runs.claim(queued(stores, "1.1"), 1, "node-1")
    metrics.look()
    assert value(metrics, "queue_age_seconds") == 0
    assert value(metrics, "running_age_seconds") > 0


def test_each_kind_of_event_is_there_before_the_first(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    assert [value(metrics, "receptions_total", event=str(event)) for event in ReceptionEvent] == [0] * 6
    assert value(metrics, "study_events_total", event="failed") == 0


def test_what_a_destination_keeps_is_counted(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    metrics.audited(AuditEvent.COMMITTED, "1.2", {"destination": "pacs"})
    assert value(metrics, "committed_instances_total", destination="pacs") == 1


def test_refusals_are_counted_by_our_codes_and_nothing_of_a_header_gets_in(
    stores: NodeStores, tmp_path: Path
) -> None:
    metrics = new_metrics(stores, tmp_path)
    stores.audit.observers.append(metrics.audited)
    reason = f"[{RefusalCode.UNITS_UNSUPPORTED}] Units: found '[ANNA]', expected BQML"
    stores.audit.append(AuditEvent.REJECTED, "1.2", {"reason": reason})
    page = metrics.page().decode()
    codes = [dict(labels)["code"] for name, labels in samples(page) if name == "psma_node_refusals_total"]
    assert codes == [str(RefusalCode.UNITS_UNSUPPORTED)]
    assert "ANNA" not in page
    assert "1.2" not in page.replace("le=", "").split("# HELP psma_node_stage_seconds")[0]
    assert value(metrics, "study_events_total", event="rejected") == 1


def test_what_is_received_and_each_stage_is_counted(
    stores: NodeStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = new_metrics(stores, tmp_path)
    metrics.received(Reception(ReceptionEvent.STORED, "SCANNER", "10.0.0.1", status=0, bytes=500))
    metrics.received(Reception(ReceptionEvent.REFUSED, "SCANNER", "10.0.0.1", "full", 0xA700, bytes=300))
    assert value(metrics, "received_bytes_total") == 500
    assert value(metrics, "receptions_total", event="refused") == 1
    clock = iter((10.0, 13.0, 20.0))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock))
    for stage in ("load", "segment", ""):
        metrics.stage(RunKey("1.2", 1), stage)
    assert value(metrics, "stage_seconds_sum", stage="load") == 3
    assert value(metrics, "stage_seconds_sum", stage="segment") == 7


UNITS = {"_timestamp_seconds": "s since 1970", "_seconds": "s", "_bytes": "bytes", "_bytes_total": "bytes"}


def rows_of(metrics: NodeMetrics) -> set[str]:
    """The rows of the page's table, as the program has them."""
    rows = set()
    for one in set(metrics.registry._names_to_collectors.values()):
        name = one._name + "_total" * (one._type == "counter")
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        cells = (f"`{name}`", one._type, ", ".join(one._labelnames), unit, one._documentation)
        rows.add("| " + " | ".join(cells).replace("  ", " ") + " |")
    return rows


def test_the_page_lists_each_metric_with_its_kind_labels_and_unit(
    stores: NodeStores, tmp_path: Path
) -> None:
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `psma_node_")]
    assert listed == sorted(rows_of(new_metrics(stores, tmp_path)))


def test_the_page_lists_the_values_of_each_label(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    metrics.look()
    there: dict[str, set[str]] = {}
    for name, labels in samples(metrics.page().decode()):
        for label, found in labels:
            there.setdefault(f"{label} of {name}", set()).add(found)

    def listed(row: str) -> set[str]:
        [line] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{row} |")]
        return set(re.findall(r"`([\w-]+)`", line.split("|")[2]))

    assert listed("state` of studies") == there["state of psma_node_studies"]
    assert listed("state` of deliveries") == there["state of psma_node_deliveries"]
    assert listed("event` of receptions") == there["event of psma_node_receptions_total"]
    assert listed("event` of study events") == there["event of psma_node_study_events_total"]
    operators = "".join(file.read_text() for file in (ROOT / "operators").glob("*.py"))
    assert listed("stage`") == set(re.findall(r'stage, inlet, outlet = "(\w+)"', operators))


def names_in(text: str) -> set[str]:
    return set(re.findall(r"psma_node_[a-z_]+", text))


def test_dashboard_and_alert_rules_ask_for_what_there_is(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    there = {family.name for family in metrics.registry.collect()}
    there |= {f"{name}{end}" for name in there for end in ("_total", "_bucket", "_sum", "_count")}
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for rule in rules]
    assert names_in(" ".join(asked)) - there == set()
    assert len(names_in(" ".join(asked))) >= 12
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(rule["annotations"]["action"] for rule in rules)


def test_a_node_tells_prometheus_what_it_received_and_delivered(
    new_node: Callable[..., NodeProcess], pacs: FakePacs
) -> None:
    port = free_port()
    node = new_node(pacs, node={"probe_port": port}).start()
    study = node.send_study(1)

    def told() -> Samples:
        status, page = ask(port, "/metrics")
        assert status == 200
        assert study not in page
        return samples(page)

    delivered_all = ("psma_node_delivered_instances_total", frozenset({("destination", "pacs")}))
    wait_until(lambda: told().get(delivered_all) == 3, "three results are delivered")
    assert told()["psma_node_receptions_total", frozenset({("event", "stored")})] == 1
    assert told()["psma_node_stage_seconds_count", frozenset({("stage", "segment")})] == 1
    assert node.stop() == 0


def test_a_destination_that_was_set_at_sighup_is_counted(stores: NodeStores, tmp_path: Path) -> None:
    metrics = new_metrics(stores, tmp_path)
    metrics.follow(DeliverPolicy((Destination("archive", "ARCHIVE", "127.0.0.1", 104),)))
    metrics.look()
    assert value(metrics, "deliveries", destination="archive", state="pending") == 0
