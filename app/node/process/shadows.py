"""The last part of the workflow ``process``: the shadow models, once the results are on their way."""

from __future__ import annotations

import logging

from app.errors import describe_exception
from app.node.records.audit import AuditEvent
from app.node.records.comparisons import WaitingShadows, in_words
from app.node.records.runs import RunKey, StudyState
from app.node.records.stores import NodeStores

_log = logging.getLogger(__name__)

SERVED = (StudyState.DELIVERING, StudyState.DONE)


class ShadowComparing:
    """Runs what is waiting for a study and keeps what comes out."""

    def __init__(self, stores: NodeStores, waiting: WaitingShadows) -> None:
        self._stores = stores
        self._waiting = waiting

    def compare(self, study_instance_uid: str, revision: int) -> None:
        """Run the study's shadow models; whatever goes wrong is told to the log, and to nobody else."""
        key = RunKey(study_instance_uid, revision)
        facts = {"study": study_instance_uid, "revision": revision}
        work = self._waiting.take(key)
        try:
            if self._stores.runs.get(key).state not in SERVED:
                return
            if work is None:
                _log.warning("shadow models not run: the node was restarted meanwhile", extra=facts)
                return
            comparisons = work()
            self._stores.shadows.add(key, comparisons)
            if comparisons:
                models = [in_words(comparison) for comparison in comparisons]
                audited = {"revision": revision, "models": models}
                self._stores.audit.append(AuditEvent.SHADOWS_COMPARED, study_instance_uid, audited)
        except Exception as error:  # noqa: BLE001  the study was served; a shadow must not fail its workflow
            _log.error("shadow models not kept: %s", describe_exception(error), extra=facts)
