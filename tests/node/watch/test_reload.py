"""SIGHUP: what a running node takes over, what it names, and that wrong settings change nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from app.cli.reload import SAFE, Reloader, differences, merged
from app.demo.node import START_S
from app.demo.processes import start_program, stopping
from app.node.deliver import scu
from app.node.peers import Caller, Destination
from app.node.records.audit import AuditEvent
from app.settings import Settings, load_settings
from tests.node.workflow.peers import free_port, wait_until


def test_what_is_safe_is_taken_over_and_the_rest_is_named(tmp_path: Path) -> None:
    running = Settings()
    file = tmp_path / "app.yaml"
    file.write_text(
        "receive: {port: 104, settle_s: 5}\n"
        "deliver: {destinations: [{name: pacs, ae_title: PACS, host: h, port: 104}]}\n"
        "node: {log_level: DEBUG, database_url: 'postgresql://u:hush@h/d', probe_port: 8080, "
        "retention: {done_days: 30}, notify: {url: 'https://hook/hush'}}\n"
        "select: {nm_modalities: [OT]}\n"
    )
    found = load_settings(file)
    taken = merged(running, found)
    assert (taken.receive.settle_s, taken.receive.port, taken.node.log_level) == (5, 11112, "DEBUG")
    assert taken.deliver == found.deliver
    assert taken.select == running.select
    assert taken.node.retention.done_days == 30
    assert set(differences(running, taken)) == {
        "receive.settle_s changed from 60.0 to 5.0",
        "deliver.destinations.0 changed from nothing to {name: pacs, ae_title: PACS, host: h, port: 104, "
        "commitment: false, verify: none, tls: false}",
        "node.log_level changed from INFO to DEBUG",
        "node.retention.done_days changed from 0.0 to 30.0",
        "node.notify.url changed",
    }
    assert set(differences(taken, found)) == {
        "receive.port changed from 11112 to 104",
        "node.database_url changed",
        "node.probe_port changed from 0 to 8080",
        "select.nm_modalities changed from [] to [OT]",
    }
    assert set(differences(merged(taken, running), running)) == set()


def test_every_safe_key_is_a_setting() -> None:
    for section, keys in SAFE.items():
        record = getattr(Settings(), section)
        assert replace(record, **{key: getattr(record, key) for key in keys}) == record


def test_a_log_file_that_cannot_be_opened_keeps_no_other_setting_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "app.yaml"
    settings = {
        "receive": {"allowed_callers": [{"ae_title": "NEW"}]},
        "node": {"log_file": str(file / "below a file" / "node.log")},
    }
    file.write_text(json.dumps(settings))
    service = Mock()
    reload = Reloader(service, Settings(), file, [])
    reload()
    reload()
    (_, receive, _), _ = service.take_over.call_args_list[0]
    assert receive.allowed_callers == (Caller("NEW"),)
    audited = {
        "changes": [
            "receive.allowed_callers.0.ae_title changed from * to NEW",
            "node.log_file changed from nothing to " + settings["node"]["log_file"],
        ]
    }
    service.note.assert_called_once_with(AuditEvent.SETTINGS_CHANGED, audited)
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [
        "the log file can't be opened"
    ] * 2


def test_a_node_takes_new_callers_reopens_its_log_and_survives_wrong_settings(tmp_path: Path) -> None:
    port, file, log = free_port(), tmp_path / "app.yaml", tmp_path / "node.log"
    content = {
        "receive": {"port": port, "min_free_mb": 1, "allowed_callers": [{"ae_title": "OLD"}]},
        "node": {"data_dir": str(tmp_path / "data"), "min_free_mb": 1, "log_file": str(log)},
    }
    file.write_text(json.dumps(content))
    here = Destination("node", "PSMA_NODE", "127.0.0.1", port)
    command = [sys.executable, "-m", "app", "serve", "--config", str(file)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    node = start_program("psma-node serve", command, tmp_path / "log.txt", environment)
    with stopping(node):
        node.wait_for_port(port, START_S)
        wait_until(lambda: '"ready"' in log.read_text(), "the node is ready")
        assert (scu.echo(here, "OLD").ok, scu.echo(here, "NEW").ok) == (True, False)
        content["receive"] |= {"allowed_callers": [{"ae_title": "NEW"}], "max_associations": 7}
        file.write_text(json.dumps(content))
        log.rename(tmp_path / "node.log.1")
        os.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: log.exists() and "max_associations" in log.read_text(), "the log is opened anew")
        line = "receive.max_associations changed from 32 to 7: takes effect at the next start"
        assert line in log.read_text()
        assert (scu.echo(here, "OLD").ok, scu.echo(here, "NEW").ok) == (False, True)
        content["receive"].pop("max_associations")
        file.write_text(json.dumps(content))
        os.kill(node.pid, signal.SIGHUP)
        unchanged = "the settings were read again, and are as they were"
        wait_until(lambda: unchanged in log.read_text(), "it says that nothing changed")
        file.write_text("receive: {prot: 1}")
        os.kill(node.pid, signal.SIGHUP)
        told = "the new settings are wrong, and none is taken over"
        wait_until(lambda: told in log.read_text(), "it says so")
        assert scu.echo(here, "NEW").ok
        assert node.stop() == 0
    audit = (tmp_path / "data" / "audit" / "audit.jsonl").read_text()
    assert "receive.allowed_callers.0.ae_title changed from OLD to NEW" in audit
