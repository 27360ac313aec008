"""Orthanc stores every kind of result, finds it, and gives it back as it was, names in any letters too."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID

from app.demo.pacs import PACS_AE_TITLE, Orthanc, orthanc_program
from app.demo.processes import LOOPBACK, free_port
from app.demo.results import VIEWER_AE_TITLE, find_series
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import Result
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.node.deliver.scu import StoreResponse, send
from app.node.peers import Destination
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE, PatientHeader
from tests.peers.results import Case

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
NAMES: dict[str, tuple[str, str | list[str]]] = {
    "Latin-1": ("Müller^Jörg", "ISO_IR 100"),
    "UTF-8": ("Müller^Jörg", "ISO_IR 192"),
    "Greek": ("Παπαδόπουλος^Νίκος", "ISO_IR 126"),
    "Japanese": ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if orthanc_program() is None:
        pytest.fail("Orthanc is not installed: scripts/install-peers")
    peers = {"PSMA_NODE": free_port(), VIEWER_AE_TITLE: free_port()}
    archive = Orthanc(tmp_path_factory.mktemp("pacs"), PACS_AE_TITLE, free_port(), peers)
    archive.start()
    yield archive
    archive.stop()


def store(pacs: Orthanc, results: list[Result], folder: Path) -> tuple[StoreResponse, ...]:
    """Send as the node does."""
    paths = []
    for result in results:
        paths.append(folder / result.file_name)
        paths[-1].write_bytes(result.content)
    return send(paths, Destination("pacs", PACS_AE_TITLE, LOOPBACK, pacs.port), "PSMA_NODE")


def ask(pacs: Orthanc, path: str, query: dict[str, Any] | None = None) -> bytes:
    """Orthanc's REST interface."""
    data = None if query is None else json.dumps(query).encode()
    request = urllib.request.Request(f"http://{LOOPBACK}:{pacs.http_port}{path}", data)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        return bytes(answer.read())


def instance_id(pacs: Orthanc, result: Result) -> str:
    """Orthanc's own name of an instance that it finds by its UID."""
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": str(result.dataset.SOPInstanceUID)}}
    [found] = json.loads(ask(pacs, "/tools/find", query))
    return str(found)


def data_set(content: bytes) -> bytes:
    """What follows the file meta information, which each archive writes anew (PS3.10 7.1)."""
    group_length = int.from_bytes(content[140:144], "little")
    return content[144 + group_length :]


def everything(cases: dict[str, Case]) -> list[Result]:
    results = [result for case in cases.values() for result in case.results]
    return [result for result in results if result.dataset.SOPClassUID != LABEL_MAP_STORAGE]


def test_every_result_is_stored_found_and_returned_as_it_was(
    cases: dict[str, Case], pacs: Orthanc, tmp_path: Path
) -> None:
    results = everything(cases)
    answers = store(pacs, results, tmp_path)
    assert [answer.status for answer in answers] == [0] * len(results)
    for result in results:
        returned = ask(pacs, f"/instances/{instance_id(pacs, result)}/file")
        assert data_set(returned) == data_set(result.content), result.file_name
    listed = {series.series_instance_uid: series for series in find_series(pacs, f"{sources.ROOT}.1")}
    for result in results:
        series = listed[result.dataset.SeriesInstanceUID]
        assert (series.modality, series.description) == (
            result.dataset.Modality, result.dataset.SeriesDescription
        )  # fmt: skip


def test_a_pacs_that_does_not_know_label_maps_says_so_at_once(
    cases: dict[str, Case], pacs: Orthanc, tmp_path: Path
) -> None:
    """Orthanc takes the classes that its DCMTK knows: 1.10.1 (Debian 12) not this one, 1.12.7 (13) does."""
    [answer] = store(pacs, [cases["PET, other choices"].of_kind(ResultKind.SEG)], tmp_path)
    version = tuple(map(int, json.loads(ask(pacs, "/system"))["Version"].split(".")))
    assert answer.ok is (version >= (1, 12, 7))
    assert answer.ok or "not accept" in answer.comment


@pytest.mark.parametrize("alphabet", NAMES)
def test_a_name_is_shown_in_its_own_letters(pacs: Orthanc, alphabet: str, tmp_path: Path) -> None:
    name, character_set = NAMES[alphabet]
    quantified = sources.pet(tmp_path / "source", patient=PatientHeader(name, character_set))
    made_with = replace(PROVENANCE, software_version=alphabet)
    results = list(write_results(quantified, WritePolicy(rtstruct=True), made_with).results)
    assert all(answer.ok for answer in store(pacs, results, tmp_path))
    for result in results:
        tags = json.loads(ask(pacs, f"/instances/{instance_id(pacs, result)}/simplified-tags"))
        assert tags["PatientName"] == name, result.kind
