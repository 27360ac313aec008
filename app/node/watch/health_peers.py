"""The checks of ``psma-node check`` that concern peers: our certificate, the site's CAs, the destinations.

Each returns a value, and none raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from app.errors import RetryLaterError
from app.node.peers import NO_TLS, DeliverPolicy, Destination, ReceivePolicy, TlsPolicy
from app.node.tls import Validity, authorities_validity, is_of_our_authorities, own_validity, speaks_tls
from app.node.watch.check_result import CheckResult

NO_CLASSES: Mapping[str, str] = {}

TLS_TIMEOUT_S = 5.0
"""For a peer that has just answered otherwise."""


def check_certificate(tls: TlsPolicy) -> CheckResult:
    """The node's certificate can be used, now and for some time, and peers of the site take it."""
    result = _judged("certificate", f"tls.certificate {tls.certificate}", [own_validity(tls)], tls)
    if not result.ok or result.advice or not tls.authorities or is_of_our_authorities(tls):
        return result
    found = f"warning: {result.found}; of none of the CAs in tls.authorities"
    return CheckResult(result.name, True, found, "peers that know the site's CA alone refuse it: ask that CA")


def check_authorities(tls: TlsPolicy) -> CheckResult:
    """The site's CAs can be used, now and for some time."""
    name, place = "authorities", f"tls.authorities {tls.authorities}"
    return _judged(name, place, authorities_validity(tls), tls)


def _judged(name: str, place: str, certificates: Sequence[Validity], tls: TlsPolicy) -> CheckResult:
    """How long they hold; the first that ends counts."""
    now = datetime.now(UTC)
    first = min(certificates, key=lambda one: one.ends_at)
    advice = "renew it: the node takes the new file without a restart (docs/how-to/tls.md)"
    if first.ends_at <= now:
        found = f"{place} ({first.name}) has expired on {first.ends_at:%Y-%m-%d}"
        return CheckResult(name, False, found, advice)
    if any(one.begins_at > now for one in certificates):
        return CheckResult(name, False, f"{place} is not valid yet", "is this host's clock right?")
    found = f"{place} ({first.name}) ends on {first.ends_at:%Y-%m-%d}"
    if first.ends_at <= now + timedelta(days=tls.warn_days):
        return CheckResult(name, True, f"warning: {found}, in {(first.ends_at - now).days} days", advice)
    return CheckResult(name, True, found)


def check_destination(
    destination: Destination,
    policy: DeliverPolicy,
    tls: TlsPolicy = NO_TLS,
    classes: Mapping[str, str] = NO_CLASSES,
) -> CheckResult:
    """The destination answers C-ECHO, and accepts what it is to get and to be asked.

    ``classes``: the SOP class of each kind of result.
    """
    from app.node.deliver import scu  # what sends is loaded where a destination is set alone

    name = f"destination {destination.name}"
    answer = scu.echo(destination, policy.calling_ae_title, tls=tls)
    if not answer.ok:
        plain = not destination.tls and answer.hung_up
        if plain and speaks_tls(destination.host, destination.port, TLS_TIMEOUT_S):
            found = f"{answer.detail}; TLS is spoken there"
            return CheckResult(name, False, found, "tls: true at this destination (docs/how-to/tls.md)")
        return CheckResult(name, False, answer.detail, answer.advice)
    found = f"C-ECHO answered in {answer.detail}{' (TLS)' * destination.tls}"
    wanted = dict(_wanted(destination, classes))
    try:
        accepted = scu.accepted_classes(wanted, destination, policy.calling_ae_title, tls=tls)
    except RetryLaterError as error:
        return CheckResult(name, False, f"{found}, then: {error}", getattr(error, "advice", ""))
    missing = [words for sop_class, (words, _) in wanted.items() if sop_class not in accepted]
    if not missing:
        return CheckResult(name, True, found)
    advice = dict.fromkeys(advice for sop_class, (_, advice) in wanted.items() if sop_class not in accepted)
    found = f"{found}; it does not accept {', '.join(missing)}"
    return CheckResult(name, False, found, "; ".join(advice))


def check_way_back(destination: Destination, receive: ReceivePolicy) -> CheckResult:
    """A destination that is asked for its commitment can call the node with the answer."""
    name = f"commitment {destination.name}"
    if receive.can_be_called_by(destination):
        return CheckResult(name, True, "a listener is open to its reports")
    kind = "" if destination.tls else " without TLS"
    found = f"warning: no listener{kind} that it could call: it has to report at once, on the node's call"
    advice = "add one to receive.listeners, or set verify: find in place of commitment"
    return CheckResult(name, True, found, advice)


def _wanted(destination: Destination, classes: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """What it has to accept: each SOP class with its words, and what to do where it does not."""
    from pydicom.uid import UID
    from pynetdicom import sop_class as known

    from app.node.deliver.proof import OTHER_PROOFS
    from app.node.records.commitment_messages import PUSH_MODEL

    proofs = {
        "commitment": (PUSH_MODEL, "Storage Commitment (commitment: true)"),
        "find": (known.StudyRootQueryRetrieveInformationModelFind, "C-FIND (verify: find)"),
        "retrieve": (known.StudyRootQueryRetrieveInformationModelGet, "C-GET (verify: retrieve)"),
    }
    for sop_class in dict.fromkeys(classes.values()):
        kinds = [kind for kind, one in classes.items() if one == sop_class and destination.takes(kind)]
        if kinds:
            words = f"{' and '.join(kinds)} ({UID(sop_class).name})"
            yield sop_class, (words, "have it accept them, or leave kinds of results out (accept)")
    proof = "commitment" if destination.commitment else destination.verify
    if proof in proofs:
        sop_class, words = proofs[proof]
        others = f"have it offer that, or set {OTHER_PROOFS[proof]}, or neither: sent is delivered then"
        yield str(sop_class), (words, others)
