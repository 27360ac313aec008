"""What goes where: the results that each destination gets, by kind and by where their study came from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.node.peers import Destination
from app.node.records.states import RunKey
from app.node.records.stores import NodeStores

if TYPE_CHECKING:
    from app.domain.outcome import ResultFile

_log = logging.getLogger(__name__)


def routed(
    stores: NodeStores, run: RunKey, files: Sequence[ResultFile], destinations: Sequence[Destination]
) -> dict[str, list[ResultFile]]:
    """The files for each destination that gets any, by its name.

    What arrives later adds senders and stations and takes none away: a destination that got one revision of
    a study gets the next.
    """
    routes = {}
    for destination in destinations:
        chosen = [file for file in files if destination.takes(file.kind)]
        if chosen and _is_for(stores, run.study_instance_uid, destination):
            routes[destination.name] = chosen
    return routes


def _is_for(stores: NodeStores, study_instance_uid: str, destination: Destination) -> bool:
    if destination.callers and not stores.inbox.senders(study_instance_uid) & {*destination.callers}:
        return False
    return not destination.stations or bool(_stations(stores, study_instance_uid) & {*destination.stations})


def _stations(stores: NodeStores, study_instance_uid: str) -> set[str]:
    """Station Name (0008,1010) of each series; a file that is gone, or that can't be read, names none."""
    samples = stores.inbox.series_samples(study_instance_uid)
    return {_station(path) for path in samples if path.exists()}


def _station(path: Path) -> str:
    from app.dicom.dicom_file import read_header
    from app.dicom.header_values import READ_ERRORS

    try:
        return str(read_header(path, ["StationName"]).get("StationName", "")).strip()
    except READ_ERRORS as error:  # the chain has set its series aside, with a reason
        facts = {"path": str(path), "reason": type(error).__name__}
        _log.warning("the station of an unreadable image is not known", extra=facts)
        return ""
