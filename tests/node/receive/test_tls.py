"""TLS from the first byte to the last, with DCMTK's storescu and storescp as peers (PS3.15 B.12)."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest

from app.demo.pacs import Orthanc
from app.errors import MisconfiguredError, RetryLaterError
from app.node.deliver.scu import echo, send
from app.node.peers import DeliverPolicy, Destination, Listener, ReceivePolicy, TlsPolicy
from app.node.receive import association_guard
from app.node.receive.reception import Reception
from app.node.receive.scp import StoreScp
from app.node.records.inbox import Inbox
from app.node.tls import (
    RenewedContext,
    authorities_validity,
    client_context,
    is_of_our_authorities,
    own_validity,
    server_context,
)
from app.node.watch.health_peers import check_destination
from tests.node.certificates import Authority, openssl
from tests.node.receive.images import STUDY, write_study
from tests.node.receive.peers import dcmtk, free_port, raw_sender, run_dcmtk
from tests.node.receive.wire import association_request


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA that the site does not know."""
    return Authority(tmp_path_factory.mktemp("other"), "other-ca")


@pytest.fixture(scope="module")
def node(site: Authority) -> TlsPolicy:
    return site.certify("node")


@pytest.fixture(scope="module")
def scanner(site: Authority) -> TlsPolicy:
    return site.certify("scanner", san="DNS:scanner.clinic")


@contextmanager
def listening(
    inbox: Inbox, receptions: list[Reception], tls: TlsPolicy, *listeners: Listener, **changes: object
) -> Iterator[StoreScp]:
    policy = replace(ReceivePolicy(min_free_mb=0, listeners=listeners), **changes)
    scp = StoreScp(policy, inbox, receptions.append, tls)
    scp.start()
    try:
        yield scp
    finally:
        scp.stop(drain_s=0)


SECURE = Listener(port=0, tls=True)


@pytest.fixture
def secure(inbox: Inbox, receptions: list[Reception], node: TlsPolicy) -> Iterator[StoreScp]:
    with listening(inbox, receptions, node, SECURE) as scp:
        yield scp


def to(port: int, **changes: object) -> Destination:
    return replace(Destination("pacs", "PSMA_NODE", "127.0.0.1", port, tls=True), **changes)


def storescu(port: int, files: list[Path], *tls: str | Path) -> subprocess.CompletedProcess[str]:
    return run_dcmtk("storescu", "-aec", "PSMA_NODE", *tls, "127.0.0.1", port, *files)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_study(tmp_path / "out", 3)


def test_dcmtk_s_storescu_sends_by_tls_1_3_with_a_certificate_of_the_site(
    secure: StoreScp, inbox: Inbox, files: list[Path], scanner: TlsPolicy
) -> None:
    done = storescu(
        secure.port, files, "-d", "+tls", scanner.key, scanner.certificate, "+cf", scanner.authorities
    )
    assert done.returncode == 0, done.stderr
    assert "TLSv1.3" in done.stdout + done.stderr
    assert len(inbox.paths(STUDY)) == len(files)


@pytest.mark.parametrize(
    "case",
    [
        ("none", "the peer shows no certificate"),
        ("other", "the peer's certificate does not pass: unable to get local issuer certificate"),
        ("expired", "the peer's certificate does not pass: certificate has expired"),
        ("plain", "the peer speaks no TLS"),
    ],
)
def test_storescu_without_a_certificate_that_counts_is_refused_with_one_plain_line(
    case: tuple[str, str],
    site: Authority,
    other: Authority,
    secure: StoreScp,
    receptions: list[Reception],
    files: list[Path],
) -> None:
    who, why = case
    trust = ("+cf", str(site.file))
    if who == "none":
        options: tuple[str, ...] = ("+tla", *trust)
    elif who == "plain":
        options = ()
    else:
        shown = other.certify("stranger") if who == "other" else site.certify("old", days=-1)
        options = ("+tls", shown.key, shown.certificate, *trust)
    done = storescu(secure.port, files, *options)
    assert done.returncode != 0
    wait_for(lambda: bool(receptions))
    where = f"port {secure.port} (TLS)"
    assert [(one.detail, one.address, one.listener) for one in receptions] == [(why, "127.0.0.1", where)]


def test_a_listener_that_asks_for_no_certificate_is_still_no_plain_one(
    inbox: Inbox, receptions: list[Reception], node: TlsPolicy, files: list[Path]
) -> None:
    with listening(inbox, receptions, node, replace(SECURE, client_certificate=False)) as scp:
        assert storescu(scp.port, files, "+tla", "+cf", node.authorities).returncode == 0
        assert storescu(scp.port, files).returncode != 0
    assert [item.detail for item in receptions if item.detail] == ["the peer speaks no TLS"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", "an HTTP request came, no TLS"),
        (association_request(), "the peer speaks no TLS"),
        (b"\xff" * 64, "the peer speaks no TLS"),
    ],
)
def test_what_is_no_tls_gets_no_answer_but_an_alert(
    secure: StoreScp, receptions: list[Reception], said: bytes, why: str
) -> None:
    with socket.create_connection(("127.0.0.1", secure.port)) as peer:
        peer.settimeout(20)
        peer.sendall(said)
        heard = peer.recv(4096)
        assert heard[:1] in (b"", b"\x15"), "at most an alert of TLS, never a PDU"
    wait_for(lambda: bool(receptions))
    assert [item.detail for item in receptions] == [why]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize(
    ("version", "ciphers", "why"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", "TLS 1.1 or older was offered"),
        (ssl.TLSVersion.TLSv1_2, "AES256-SHA256", "no cipher suite of BCP 195"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384", "no cipher suite of BCP 195"),
    ],
)
def test_old_versions_and_weak_suites_are_refused(
    secure: StoreScp, receptions: list[Reception], scanner: TlsPolicy,
    version: ssl.TLSVersion, ciphers: str, why: str,
) -> None:  # fmt: skip
    context = client_context(scanner)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    context.set_ciphers(ciphers)
    with socket.create_connection(("127.0.0.1", secure.port)) as peer, pytest.raises(ssl.SSLError):
        context.wrap_socket(peer, server_hostname="127.0.0.1")
    wait_for(lambda: bool(receptions))
    assert why in receptions[0].detail


def test_tls_1_2_is_spoken_with_forward_secrecy(secure: StoreScp, scanner: TlsPolicy) -> None:
    context = client_context(scanner)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    peer = socket.create_connection(("127.0.0.1", secure.port))
    with context.wrap_socket(peer, server_hostname="127.0.0.1") as secured:
        assert secured.cipher() == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2", 256)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(secure: StoreScp, scanner: TlsPolicy, version: ssl.TLSVersion) -> None:
    context = client_context(scanner)
    context.maximum_version = version
    session = None
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", secure.port))
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
            connection.settimeout(0.2)
            with suppress(TimeoutError):  # tickets of TLS 1.3 would be read here
                connection.recv(1)
            assert connection.session_reused is False
            session = connection.session


def test_silent_tls_clients_hold_up_nobody_and_end_in_time(
    inbox: Inbox, receptions: list[Reception], node: TlsPolicy, scanner: TlsPolicy
) -> None:
    with listening(inbox, receptions, node, SECURE, association_timeout_s=1.0) as scp:
        silent = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(20)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert echo(to(scp.port), "SCANNER", 10.0, scanner).ok
        for one in silent:
            one.settimeout(20)
            assert one.recv(100) == b""
            one.close()


def test_the_oldest_half_open_handshake_makes_room(
    inbox: Inbox, receptions: list[Reception], node: TlsPolicy, scanner: TlsPolicy
) -> None:
    with listening(inbox, receptions, node, SECURE, max_associations=1, association_timeout_s=60.0) as scp:
        silent = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(4)]
        for one in silent:
            one.sendall(b"\x16")  # a handshake begins
        wait_for(lambda: sum(_awaits(one) for one in scp._associations()) == len(silent))
        assert echo(to(scp.port), "SCANNER", 10.0, scanner).ok
        silent[0].settimeout(20)
        assert silent[0].recv(100) == b""
        for one in silent:
            one.close()


def _awaits(association: object) -> bool:
    return bool(
        association.dul.state_machine.current_state == association_guard.AWAITING_REQUEST  # type: ignore[attr-defined]
    )


def test_plain_and_tls_are_listened_on_side_by_side_and_count_as_one(
    inbox: Inbox, receptions: list[Reception], node: TlsPolicy, scanner: TlsPolicy, files: list[Path]
) -> None:
    with listening(inbox, receptions, node, Listener(port=0), SECURE, max_associations=1) as scp:
        plain, secure = scp.ports
        assert all(answer.ok for answer in send(files[:1], to(plain, tls=False), "CT1"))
        assert all(answer.ok for answer in send(files[1:], to(secure), "CT2", 20.0, scanner))
        with raw_sender(plain), pytest.raises(RetryLaterError, match="rejected"):
            send(files, to(secure), "CT2", 20.0, scanner)
    assert len(inbox.paths(STUDY)) == len(files)


def test_a_large_image_comes_through_tls_byte_for_byte(
    secure: StoreScp, inbox: Inbox, tmp_path: Path, scanner: TlsPolicy
) -> None:
    from pydicom import dcmread

    files = write_study(tmp_path / "large", 2, size=700)
    assert all(answer.ok for answer in send(files, to(secure.port), "CT", 20.0, scanner))
    arrived = {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in inbox.paths(STUDY)}
    assert arrived == {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in files}


@contextmanager
def storescp(folder: Path, *options: str | Path) -> Iterator[int]:
    folder.mkdir()
    port = free_port()
    command = [dcmtk("storescp"), "-od", str(folder), *map(str, options), str(port)]
    with subprocess.Popen(command, env={"TCP_NODELAY": "1"}, stderr=subprocess.DEVNULL) as peer:
        try:
            wait_for(lambda: _is_open(port))
            yield port
        finally:
            peer.terminate()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_dcmtk_s_storescp_gets_results_by_tls_from_a_node_that_shows_its_certificate(
    tmp_path: Path, files: list[Path], site: Authority, node: TlsPolicy
) -> None:
    pacs = site.certify("pacs")
    with storescp(tmp_path / "pacs", "+tls", pacs.key, pacs.certificate, "+cf", site.file) as port:
        assert all(answer.ok for answer in send(files, to(port), "NODE", 20.0, node))
    assert len(list((tmp_path / "pacs").iterdir())) == len(files)


@pytest.mark.parametrize(
    "case",
    [
        ("named otherwise", "node", "Hostname mismatch|IP address mismatch"),
        ("of another CA", "node", "the peer's certificate does not pass: unable to get local issuer"),
        ("expired", "node", "the peer's certificate does not pass: certificate has expired"),
        ("right", "of another CA", "the peer (does not know the CA of|refuses) our certificate"),
        ("right", "none", "the peer wants a certificate of us|did not answer or ended"),
        ("plain", "node", "the peer speaks no TLS|ended the TLS handshake|Connection reset"),
    ],
)
def test_a_pacs_that_is_not_ours_gets_nothing_and_is_tried_again(
    tmp_path: Path,
    files: list[Path],
    site: Authority,
    other: Authority,
    node: TlsPolicy,
    case: tuple[str, str, str],
) -> None:
    pacs, ours, why = case
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
        with pytest.raises(RetryLaterError, match=why):
            send(files, to(port), "NODE", 20.0, we)
        assert not echo(to(port), "NODE", 10.0, we).ok
    assert not list((tmp_path / "pacs").iterdir())


def test_the_name_that_a_pacs_s_certificate_carries_can_be_set(
    tmp_path: Path, files: list[Path], site: Authority, node: TlsPolicy
) -> None:
    pacs = site.certify("pacs", san="DNS:pacs.clinic")
    with storescp(tmp_path / "pacs", "+tls", pacs.key, pacs.certificate, "+cf", site.file) as port:
        assert all(a.ok for a in send(files, to(port, tls_name="pacs.clinic"), "NODE", 20.0, node))


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(
    inbox: Inbox, receptions: list[Reception], site: Authority, scanner: TlsPolicy, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"

    def install(name: str) -> bytes:
        made = site.certify(name)
        shutil.copy(made.certificate, certificate)
        shutil.copy(made.key, key)
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())

    first = install("first")
    with listening(inbox, receptions, TlsPolicy(str(certificate), str(key), str(site.file)), SECURE) as scp:
        peer = socket.create_connection(("127.0.0.1", scp.port))
        with client_context(scanner).wrap_socket(peer, server_hostname="127.0.0.1") as held:
            second = install("second")
            assert _shown_by(scp.port, scanner) == second != first
            assert held.getpeercert(binary_form=True) == first, "what is open keeps its own"
        certificate.write_text("not a certificate")
        for _ in range(3):
            assert _shown_by(scp.port, scanner) == second
        told = [record for record in caplog.records if "stays in use" in record.getMessage()]
        assert len(told) == 1
        assert install("third") == _shown_by(scp.port, scanner)


def _shown_by(port: int, we: TlsPolicy) -> bytes:
    peer = socket.create_connection(("127.0.0.1", port))
    with client_context(we).wrap_socket(peer, server_hostname="127.0.0.1") as secured:
        return secured.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no certificate", "tls.certificate is empty"),
        ("no authorities", "tls.authorities is empty"),
        ("gone", r"tls.key .*gone.key: No such file or directory; may the node's user read it"),
        ("another key", "the key does not belong to the certificate"),
        ("no PEM", "expected a certificate in PEM form, found no PEM text"),
        ("empty", "expected a certificate in PEM form, found an empty file"),
        ("request", r"tls.certificate .*node.csr: expected .*, found a certificate request"),
        ("key for certificate", r"tls.certificate .*node.key: .* found a private key alone"),
        ("certificate for key", r"tls.key .*node.crt: expected a private key in PEM form, found a cert"),
        ("key nowhere", r"tls.key is empty, and tls.certificate .*node.crt: expected a private key"),
        ("DER", r"found a certificate in DER form; convert it: openssl x509 -inform DER"),
        ("DER key", r"tls.key .*found a private key in DER form; convert it: openssl pkey -inform DER"),
        ("PKCS#12", r"found PKCS#12 \(.p12, .pfx\); convert it: openssl pkcs12"),
        ("damaged", "its PEM text is damaged"),
        ("key for authorities", r"tls.authorities .*node.key: .* found a private key alone"),
        ("folder", r"tls.certificate .*: Is a directory"),
        ("rsa 1024", "the key is too short: RSA needs 2048 bit"),
        ("sha1", "the signature uses SHA-1"),
        ("locked", "tls.key is locked by a password"),
        ("no CA", "no certificate of a CA in it"),
    ],
)
def test_files_that_can_not_be_used_are_refused_in_plain_words(
    site: Authority, node: TlsPolicy, scanner: TlsPolicy, tmp_path: Path, fault: str, words: str
) -> None:
    policy = {
        "no certificate": lambda: replace(node, certificate=""),
        "no authorities": lambda: replace(node, authorities=""),
        "gone": lambda: replace(node, key=str(tmp_path / "gone.key")),
        "another key": lambda: replace(node, key=scanner.key),
        "no PEM": lambda: replace(node, certificate=__file__),
        "empty": lambda: replace(node, certificate=_made(tmp_path, b"")),
        "request": lambda: replace(node, certificate=node.certificate.replace(".crt", ".csr")),
        "key for certificate": lambda: replace(node, certificate=node.key),
        "certificate for key": lambda: replace(node, key=node.certificate),
        "key nowhere": lambda: replace(node, key=""),
        "DER": lambda: replace(node, certificate=_converted(tmp_path, "x509", "-in", node.certificate)),
        "DER key": lambda: replace(node, key=_converted(tmp_path, "pkey", "-in", node.key)),
        "PKCS#12": lambda: replace(node, certificate=_pkcs12(tmp_path, node)),
        "damaged": lambda: replace(node, certificate=_damaged(tmp_path, node)),
        "key for authorities": lambda: replace(node, authorities=node.key),
        "folder": lambda: replace(node, certificate=str(tmp_path)),
        "rsa 1024": lambda: site.certify("weak", kind=("rsa:1024",)),
        "sha1": lambda: site.certify("sha1", digest="sha1"),
        "locked": lambda: replace(node, key=str(_locked(node, tmp_path / "locked.key"))),
        "no CA": lambda: replace(node, authorities=node.certificate),
    }[fault]()
    with pytest.raises(MisconfiguredError, match=words):
        server_context(policy)


def _locked(policy: TlsPolicy, to_file: Path) -> Path:
    openssl("pkey", "-in", policy.key, "-aes256", "-passout", "pass:secret", "-out", to_file)
    return to_file


def test_certificates_say_when_they_end_and_whose_they_are(site: Authority, other: Authority) -> None:
    old = site.certify("old-one", days=-1)
    assert own_validity(old).name == "old-one"
    assert own_validity(old).ends_at.timestamp() < time.time()
    [authority] = authorities_validity(old)
    assert authority.name == "site-ca"
    assert authority.ends_at - authority.begins_at == timedelta(days=3650)
    assert is_of_our_authorities(old)
    assert not is_of_our_authorities(replace(old, authorities=str(other.file)))


def test_a_context_stays_the_same_while_its_files_do(node: TlsPolicy) -> None:
    renewed = RenewedContext(node, server_context)
    assert renewed.current() is renewed.current()


def _made(folder: Path, content: bytes) -> str:
    file = folder / "made"
    file.write_bytes(content)
    return str(file)


def _converted(folder: Path, *words: str) -> str:
    openssl(*words, "-outform", "DER", "-out", folder / "made")
    return str(folder / "made")


def _pkcs12(folder: Path, node: TlsPolicy) -> str:
    made = ("-export", "-in", node.certificate, "-inkey", node.key, "-passout", "pass:")
    openssl("pkcs12", *made, "-out", folder / "made")
    return str(folder / "made")


def _damaged(folder: Path, node: TlsPolicy) -> str:
    first, *lines = Path(node.certificate).read_bytes().splitlines(keepends=True)
    return _made(folder, b"".join((first, *lines[2:])))


class SecureOrthanc(Orthanc):
    """Orthanc with DicomTls, that sends to the node by TLS."""

    identity: TlsPolicy
    node_port: int

    def _configuration(self) -> dict[str, object]:
        node = {"AET": "PSMA_NODE", "Host": "127.0.0.1", "Port": self.node_port, "UseDicomTls": True}
        sender = {"AET": "SENDER", "Host": "127.0.0.1", "Port": 1, "AllowEcho": True, "AllowStore": True}
        return super()._configuration() | {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": self.identity.certificate,
            "DicomTlsPrivateKey": self.identity.key,
            "DicomTlsTrustedCertificates": self.identity.authorities,
            "DicomTlsRemoteCertificateRequired": True,
            "DicomModalities": {"node": node, "sender": sender},
        }


def test_orthanc_in_plain_that_is_called_by_tls_is_told_apart(
    tmp_path: Path, files: list[Path], node: TlsPolicy
) -> None:
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", "ARCHIVE", port, {"SENDER": 1})
    orthanc.start()
    try:
        archive, policy = to(port, ae_title="ARCHIVE"), DeliverPolicy(calling_ae_title="SENDER")
        mixed_up = check_destination(archive, policy, node)
        with pytest.raises(RetryLaterError):
            send(files, archive, "SENDER", 2.0, node)
        right = check_destination(replace(archive, tls=False), policy)
    finally:
        orthanc.stop()
    assert not mixed_up.ok
    assert mixed_up.advice.startswith("if it is a plain one, take tls: true away from this destination")
    assert right.ok, right.found


def test_orthanc_takes_and_sends_by_tls(
    secure: StoreScp, inbox: Inbox, files: list[Path], site: Authority, node: TlsPolicy
) -> None:
    orthanc = SecureOrthanc(files[0].parent / "orthanc", "ARCHIVE", free_port(), {})
    orthanc.identity, orthanc.node_port = site.certify("orthanc"), secure.port
    orthanc.start()
    try:
        archive = to(orthanc.port, ae_title="ARCHIVE")
        assert all(answer.ok for answer in send(files, archive, "SENDER", 20.0, node))
        with pytest.raises(RetryLaterError):
            send(files, replace(archive, tls=False), "SENDER", 2.0)
        plain, policy = replace(archive, tls=False), DeliverPolicy(calling_ae_title="SENDER")
        mixed_up = check_destination(plain, policy)
        assert mixed_up.found.endswith("TLS is spoken there")
        assert mixed_up.advice.startswith("tls: true at this destination")
        base = f"http://127.0.0.1:{orthanc.http_port}"
        with urlopen(f"{base}/studies", timeout=20) as answer:  # noqa: S310  our own http URL
            study = json.load(answer)[0]
        urlopen(f"{base}/modalities/node/store", data=study.encode(), timeout=20).close()  # noqa: S310  as above
    finally:
        orthanc.stop()
    assert len(inbox.paths(STUDY)) == len(files)
