"""Shadow models in the node: they run last in the workflow ``process``, once the results are on their way."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from app.domain.outcome import ShadowComparison, ShadowWork
from app.errors import describe_exception
from app.node.records.audit import AuditEvent
from app.node.records.states import WITH_RESULTS, RunKey
from app.node.records.stores import NodeStores

MOST_WAITING = 4
"""Each holds a study's volumes in memory; more wait only where a study was never recorded."""

_log = logging.getLogger(__name__)


class WaitingShadows:
    """Shadow work of studies whose chain has ended, until their results are on their way."""

    def __init__(self, stores: NodeStores) -> None:
        self._stores = stores
        self._waiting: OrderedDict[RunKey, ShadowWork] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, study_instance_uid: str, revision: int, work: ShadowWork) -> None:
        """Keep the work of a study; the oldest goes when there are too many."""
        with self._lock:
            self._waiting[RunKey(study_instance_uid, revision)] = work
            while len(self._waiting) > MOST_WAITING:
                key, _ = self._waiting.popitem(last=False)
                _log.warning("shadow models not run", extra={"study": key.study_instance_uid})

    def take(self, key: RunKey) -> ShadowWork | None:
        """The work of a study, once."""
        with self._lock:
            return self._waiting.pop(key, None)

    def compare(self, key: RunKey) -> None:
        """Run the study's shadow models and keep what they found; a fault goes to the log alone."""
        work = self.take(key)
        try:
            if self._stores.runs.get(key).state not in WITH_RESULTS:
                return
            if work is None:
                _log.warning("shadow models not run: the node was restarted meanwhile", extra=key.facts)
                return
            comparisons = work()
            self._stores.shadows.add(key, comparisons)
            if comparisons:
                audited = {"revision": key.revision, "models": [_in_words(each) for each in comparisons]}
                self._stores.audit.append(AuditEvent.SHADOWS_COMPARED, key.study_instance_uid, audited)
        except Exception as error:  # noqa: BLE001  the study was served; a shadow must not fail its workflow
            _log.error("shadow models not kept: %s", describe_exception(error), extra=key.facts)


def _in_words(comparison: ShadowComparison) -> dict[str, object]:
    """One comparison for the audit log."""
    found = comparison.found
    return {
        "functional_series": comparison.functional_series_instance_uid,
        "serving": comparison.serving.model_id,
        "shadow": comparison.shadow_id,
        "weights_sha256": "" if comparison.shadow is None else comparison.shadow.weights_sha256,
        "dice": comparison.dice,
        "lesions": None if found is None else found.lesion_count,
        "problem": comparison.problem,
    }
