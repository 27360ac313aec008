"""Looks at what has arrived, and opens a revision for each new content of a complete study."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from app.domain.selection.selection import SelectionResult
from app.domain.study import Study
from app.errors import describe_exception
from app.node.peers import ReceivePolicy
from app.node.receive.completeness import Completeness, arrival_of, assess, subject_of
from app.node.records.audit import AuditEvent
from app.node.records.database import BUSY_TIMEOUT_S, utc_now
from app.node.records.inbox_index import StudyContent
from app.node.records.overview import InboxStudy
from app.node.records.runs import Run
from app.node.records.states import FINAL, StudyState
from app.node.records.stores import NodeStores
from app.node.records.studies import StudySubject

Examine = Callable[[Sequence[Path]], tuple[Study, SelectionResult]]
"""Headers of a study's files, and what the selection makes of them."""

LATE_COMMIT = timedelta(seconds=2 * BUSY_TIMEOUT_S)
"""An instance's row may be committed so long after the instant written in it."""

NO_IMAGE = "no image has come yet"
"""A study may consist of other systems' results alone, say: nothing in it could be analysed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Examined:
    """Headers as of one content; ``unreadable`` says why there are none."""

    content: tuple[int, datetime]
    study: Study | None = None
    selected: SelectionResult | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class _Quiet:
    """Since when a content has not grown, on the monotonic clock."""

    content: tuple[int, datetime]
    since_s: float


class Watcher:
    """Looks at the inbox; each study's headers are read once for each content, when no image came for a poll.

    It belongs into the process that receives: another sees what was acknowledged only once it is indexed, so
    it would take a study for complete of which images wait for that. ``on_study`` is called for each study, a
    sign of life: after days without the node a look may take long. ``on_complete`` is called for each
    revision that was opened.
    """

    def __init__(
        self,
        stores: NodeStores,
        policy: ReceivePolicy,
        examine: Examine,
        calm_s: float,
        on_study: Callable[[], None] = lambda: None,
        on_complete: Callable[[], None] = lambda: None,
    ) -> None:
        self._stores = stores
        self._on_study = on_study
        self._on_complete = on_complete
        self.policy = policy
        self._examine = examine
        self._calm_s = calm_s
        self._open: dict[str, InboxStudy] = {}
        self._settled: dict[str, tuple[int, datetime]] = {}
        self._examined: dict[str, _Examined] = {}
        self._observed: dict[str, tuple[StudyState, str]] = {}
        self._subjects: dict[str, StudySubject] = {}
        self._rests_until: dict[str, float] = {}
        """Seconds of quiet before which nothing changes."""
        self._looked_at: datetime | None = None
        self._quiet: dict[str, _Quiet] = {}
        self._last_look_s = 0.0

    def look(self) -> float | None:
        """One look at everything that grew or is not complete yet.

        Returns the seconds until the first of them may be complete, ``None`` when nothing is open.
        """
        started = utc_now()
        inbox = self._stores.inbox
        if self._looked_at is None or started < self._looked_at:  # the clock was set back
            grown = inbox.studies()
            self._remember_settled(grown)
        else:
            grown = inbox.received_after(self._looked_at - LATE_COMMIT)
        self._take_up_chosen()
        for study in grown:
            if not self._is_settled(study):
                self._take_up(study)
        # the study that began to arrive first is the first in the queue
        for study in sorted(self._open.values(), key=lambda item: item.first_received_at):
            self._on_study()
            if self._quiet_s(study) >= self._rests_until.get(study.study_instance_uid, 0.0):
                self._look_at(study)
        self._looked_at, self._last_look_s = started, time.monotonic()
        # only what has grown lately may appear again as it is
        uids = {study.study_instance_uid for study in grown}
        self._settled = {uid: content for uid, content in self._settled.items() if uid in uids}
        return min((self._due_in_s(study) for study in self._open.values()), default=None)

    def _due_in_s(self, study: InboxStudy) -> float:
        """When the next limit for which its images have to be quiet has passed."""
        quiet_s = self._quiet_s(study)
        limits = (self._calm_s, self.policy.settle_s, self.policy.give_up_s)
        return min((limit - quiet_s for limit in limits if limit > quiet_s), default=self._calm_s)

    def _quiet_s(self, study: InboxStudy) -> float:
        """Since its last image. A wall clock that is set meanwhile makes no study complete, and holds none
        up: what has come since the last look came after it."""
        now_s, content = time.monotonic(), _content(study)
        known = self._quiet.get(study.study_instance_uid)
        if known is None or known.content != content:
            age_s = max(0.0, (utc_now() - content[1]).total_seconds())
            if self._looked_at is not None and content[1] > self._looked_at:
                age_s = min(age_s, now_s - self._last_look_s)
            known = self._quiet[study.study_instance_uid] = _Quiet(content, now_s - age_s)
        return now_s - known.since_s

    def _take_up_chosen(self) -> None:
        """Studies of which a person has chosen the content: nothing of them has grown."""
        for uid in self._stores.studies.receiving():
            study = self._stores.inbox.study(uid) if uid not in self._open else None
            if study is not None:
                self._observed.pop(uid, None)
                self._open[uid] = study

    def _take_up(self, study: InboxStudy) -> None:
        uid = study.study_instance_uid
        if uid not in self._open or _content(self._open[uid]) != _content(study):
            self._rests_until.pop(uid, None)
        self._open[uid] = study

    def _is_settled(self, study: InboxStudy) -> bool:
        """Whether it is as it was when it was settled; of one that has not grown for long, its last revision
        tells: what came is no image."""
        uid = study.study_instance_uid
        if uid not in self._settled and uid not in self._open and study.last_image_at is not None:
            revisions = self._stores.runs.of_study(uid)
            if revisions and revisions[-1].content_digest == self._stores.inbox.content_digest(uid):
                self._settled[uid] = _content(study)
        return self._settled.get(uid) == _content(study)

    def _remember_settled(self, studies: Sequence[InboxStudy]) -> None:
        """After a start: what has its revision is not read again."""
        last = {run.study_instance_uid: run.content_digest for run in self._stores.runs.latest()}
        digests = self._stores.inbox.content_digests()
        for study in studies:
            self._on_study()
            uid = study.study_instance_uid
            if uid in last and last[uid] == digests.get(uid):
                self._settled[uid] = _content(study)

    def _look_at(self, study: InboxStudy) -> None:
        uid = study.study_instance_uid
        if study.last_image_at is None:
            self._observe(uid, StudyState.WAITING, NO_IMAGE)
            self._settle(study)
            return
        quiet_s = self._quiet_s(study)
        if quiet_s < self._calm_s:
            self._identify(study)
            self._observe(uid, StudyState.RECEIVING, f"{study.image_count} images so far")
            return
        held = self._held(study)
        if held:
            self._observe(uid, StudyState.HELD, held)
            if not self._running(uid):
                _log.warning("waits for a choice of content", extra={"study": uid, "reason": held})
                self._settle(study)
            return
        completeness = self._assess(study, quiet_s)
        if not completeness.complete:
            if self._stores.inbox.study(uid) is None:  # removed
                self._forget(uid)
                return
            self._observe(uid, StudyState.WAITING, completeness.waits_for)
            self._rests_until[uid] = completeness.rests_s
            return
        content = self._stores.inbox.content(uid)
        now = self._stores.inbox.study(uid)
        if now is None:  # removed
            self._forget(uid)
        elif _content(now) == _content(study) and self._open_revision(study, content, completeness):
            self._settle(study)  # if it grew while it was looked at, the next look judges it anew

    def _held(self, study: InboxStudy) -> str:
        """Why the content is not processed, in words: a conflict would withdraw a result that stands."""
        if not study.image_conflicts:
            return ""
        uid, stores = study.study_instance_uid, self._stores
        if stores.runs.of_content(uid, stores.inbox.content_digest(uid)):
            return ""
        what = f"{study.image_conflicts} images arrived with more than one content"
        running = self._running(uid)
        if running:
            return f"{what}; revision {running}, which may give a result, is running"
        stands = self._standing(uid)
        return f"{what}; the result of revision {stands} stands until a person chooses" if stands else ""

    def _running(self, study_instance_uid: str) -> int:
        """The revision that is being processed; 0 for none."""
        runs = self._stores.runs.of_study(study_instance_uid)
        return next((run.key.revision for run in runs if run.state is StudyState.RUNNING), 0)

    def _standing(self, study_instance_uid: str) -> int:
        """The revision that has spoken last, if it has given a result; else 0."""
        for run in reversed(self._stores.runs.of_study(study_instance_uid)):
            outcome = self._stores.outbox.readable_outcome_of(run.key)
            if outcome is not None and outcome.leaves_open:
                continue
            gives = outcome is not None and bool(outcome.pairs)
            if gives or run.state in FINAL:
                return run.key.revision if gives else 0
        return 0

    def _settle(self, study: InboxStudy) -> None:
        """It is looked at again when it grows."""
        self._settled[study.study_instance_uid] = _content(study)
        self._forget(study.study_instance_uid)

    def _forget(self, uid: str) -> None:
        del self._open[uid]
        self._examined.pop(uid, None)
        self._subjects.pop(uid, None)
        self._rests_until.pop(uid, None)
        self._quiet.pop(uid, None)
        self._observed.pop(uid, None)

    def _identify(self, study: InboxStudy) -> None:
        """Whose study it is, from one header: a SPECT of the same patient may have to wait for it."""
        if study.study_instance_uid not in self._subjects:
            one = self._read_headers(study, self._stores.inbox.image_paths(study.study_instance_uid)[:1])
            if one.study is not None:
                self._know(subject_of(one.study, None))

    def _know(self, subject: StudySubject) -> None:
        if self._subjects.get(subject.study_instance_uid) != subject:
            self._stores.studies.identify(subject)
            self._subjects[subject.study_instance_uid] = subject

    def _assess(self, study: InboxStudy, quiet_s: float) -> Completeness:
        examined = self._headers(study)
        if examined.study is None or examined.selected is None:
            # the chain will say in full what is wrong
            settled = quiet_s >= self.policy.settle_s
            return Completeness(settled, f"headers unreadable: {examined.unreadable}")
        return assess(examined.study, examined.selected, quiet_s, self.policy)

    def _headers(self, study: InboxStudy) -> _Examined:
        known = self._examined.get(study.study_instance_uid)
        if known is None or known.content != _content(study):
            known = self._read_headers(study, self._stores.inbox.image_paths(study.study_instance_uid))
            self._examined[study.study_instance_uid] = known
            if known.study is not None:
                self._know(subject_of(known.study, known.selected))
        return known

    def _read_headers(self, study: InboxStudy, paths: Sequence[Path]) -> _Examined:
        try:
            headers, selected = self._examine(paths)
        except Exception as error:  # noqa: BLE001  one study's headers must not stop the look at others
            _log.error("headers unreadable", exc_info=error, extra={"study": study.study_instance_uid})
            return _Examined(_content(study), unreadable=describe_exception(error))
        return _Examined(_content(study), headers, selected)

    def _open_revision(self, study: InboxStudy, content: StudyContent, completeness: Completeness) -> bool:
        """Whether the last revision is that of this content now."""
        uid = study.study_instance_uid
        found, sender = self._headers(study), content.rows[0].calling_ae
        came_at = study.last_received_at
        arrival = arrival_of(found.study, found.selected, sender, came_at, self.policy)
        run, created = self._stores.runs.open(uid, content.digest, arrival)
        if not created and (run.state is StudyState.SUPERSEDED or not self._is_last(run)):
            # a person has chosen a content that was there before others came
            reopened = self._stores.runs.reopen(run)
            if reopened is None:
                return False
            run, created = reopened, True
        self._observe(uid, StudyState.QUEUED, "")
        if not created:
            return True
        facts: dict[str, object] = {"revision": run.key.revision, "instances": study.image_count}
        _log.info("study complete", extra={"study": uid, **facts})
        self._stores.audit.append(
            AuditEvent.STUDY_RECEIVED,
            uid,
            facts
            | {
                "first_received": study.first_received_at.isoformat(timespec="seconds"),
                "last_received": study.last_received_at.isoformat(timespec="seconds"),
                "content_digest": run.content_digest,
                "beside": self._stores.inbox.beside(uid),
                "conflicting_instances": study.conflicts,
                "given_up_waiting": completeness.given_up,
            },
        )
        self._on_complete()
        return True

    def _is_last(self, run: Run) -> bool:
        return self._stores.runs.of_study(run.study_instance_uid)[-1].key == run.key

    def _observe(self, study_instance_uid: str, state: StudyState, reason: str) -> None:
        if self._observed.get(study_instance_uid) != (state, reason):
            self._stores.studies.observe(study_instance_uid, state, reason)
            self._observed[study_instance_uid] = (state, reason)


def _content(study: InboxStudy) -> tuple[int, datetime]:
    """What has to change before a study is looked at again; of its images alone, once it has any."""
    return study.image_count, study.last_image_at or study.last_received_at
