"""What ``check`` says of a destination that is set up wrongly, here or there, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import SecondaryCaptureImageStorage, StorageCommitmentPushModel, Verification

from app.dicom.results.policy import SegType, SrClass, WritePolicy
from app.node.peers import DeliverPolicy, Destination, TlsPolicy
from app.node.watch.check_result import CheckResult
from app.node.watch.health_peers import check_destination
from tests.node.certificates import Authority
from tests.node.deliver.stub_pacs import FIND, StubPacs, listening
from tests.node.receive.test_tls import storescp

POLICY = DeliverPolicy(calling_ae_title="NODE")
TAKE_TLS_AWAY = "if it is a plain one, take tls: true away"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other-ca")


@pytest.fixture(scope="module")
def node(site: Authority) -> TlsPolicy:
    return site.certify("node")


def to(port: int, **settings: Any) -> Destination:
    return Destination("pacs", "PACS", "127.0.0.1", port, **settings)


@pytest.mark.parametrize(
    "case",
    [
        ("right", "node", True, "(TLS)", ""),
        ("right", "node", False, "TLS is spoken there", "tls: true at this destination"),
        ("plain", "node", True, "TLS", TAKE_TLS_AWAY),
        ("expired", "node", True, "certificate has expired", "its owner has to renew it"),
        ("named otherwise", "node", True, "mismatch", "or set tls_name to one"),
        ("of another CA", "node", True, "unable to get local issuer", "put the CA that issued its"),
        ("right", "of another CA", True, "pacs", "certificate"),
        ("right", "none", True, "pacs", "set tls.certificate and tls.key"),
    ],
)
def test_dcmtk_s_storescp_that_does_not_fit_is_told_with_what_to_do(
    tmp_path: Path,
    site: Authority,
    other: Authority,
    node: TlsPolicy,
    case: tuple[str, str, bool, str, str],
) -> None:
    pacs, ours, speaks_tls, found, advice = case
    shown = {
        "named otherwise": lambda: site.certify("pacs2", san="DNS:pacs.clinic"),
        "of another CA": lambda: other.certify("pacs"),
        "expired": lambda: site.certify("pacs3", days=-1),
    }.get(pacs, lambda: site.certify("pacs4"))()
    we = {
        "node": node,
        "of another CA": replace(other.certify("node"), authorities=str(site.file)),
        "none": TlsPolicy(authorities=str(site.file)),
    }[ours]
    options = () if pacs == "plain" else ("+tls", shown.key, shown.certificate, "+cf", str(site.file))
    with storescp(tmp_path / "pacs", *options) as port:
        result = check_destination(to(port, tls=speaks_tls), POLICY, we)
    assert result.ok == (not advice)
    assert found in result.found
    assert advice in result.advice
    assert "does it run" not in result.advice, "it does"


def test_a_proof_that_a_pacs_does_not_offer_is_told_before_a_study_comes() -> None:
    with listening(StubPacs(classes=(FIND,))) as pacs:
        results = {
            name: check_destination(to(pacs.port, **settings), POLICY)
            for name, settings in (
                ("none", {}),
                ("commitment", {"commitment": True}),
                ("find", {"verify": "find"}),
                ("retrieve", {"verify": "retrieve"}),
            )
        }
    assert [name for name, result in results.items() if not result.ok] == ["commitment", "retrieve"]
    told = results["commitment"]
    assert "it does not accept Storage Commitment (commitment: true)" in told.found
    assert "set verify: find or retrieve, or neither" in told.advice
    assert "set commitment: true or verify: find, or neither" in results["retrieve"].advice


@contextmanager
def rejecting() -> Iterator[int]:
    """A PACS that wants to be called otherwise."""
    entity = AE("OTHER")
    entity.add_supported_context(Verification)
    entity.require_called_aet = True
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def test_a_title_that_a_pacs_does_not_have_is_asked_for() -> None:
    with rejecting() as port:
        result = check_destination(to(port), POLICY)
    assert not result.ok
    assert result.advice == "is PACS its AE title?"


def test_what_a_pacs_does_not_accept_of_the_results_is_told() -> None:
    write = WritePolicy(SegType.BINARY, SrClass.COMPREHENSIVE)
    entity = AE("PACS")
    for sop_class in (Verification, SecondaryCaptureImageStorage, StorageCommitmentPushModel):
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0)])
    port = int(server.server_address[1])

    def checked(**settings: Any) -> CheckResult:
        return check_destination(to(port, **settings), POLICY, classes=write.classes)

    try:
        everything, page = checked(commitment=True), checked(accept=("PAGE",))
    finally:
        server.shutdown()
    for words in ("SEG (Segmentation Storage)", "SR and WITHDRAWAL (Comprehensive SR Storage)"):
        assert words in everything.found
    assert "Secondary Capture" not in everything.found
    assert "leave kinds of results out (accept)" in everything.advice
    assert "SEG" not in page.found
    assert "WITHDRAWAL (Comprehensive SR Storage)" in page.found, "a notice of withdrawal always goes along"
