"""Why a study as a whole can't be analysed, and the lines that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.pair import SeriesVerdict
from app.domain.selection.screening import CT_IMAGE, NM_IMAGE, PET_IMAGE
from app.domain.study import Study

FUNCTIONAL_CLASSES = (PET_IMAGE, NM_IMAGE)

IN_ANY_STUDY = (RefusalCode.NOT_PRIMARY, RefusalCode.NOT_RECONSTRUCTED)
"""Reasons of series that every study has (MIPs, scouts, projections): they stand in the verdicts, and in a
rejection only when there is no other."""


def rejection_of(study: Study, reasons: Mapping[str, Reason], any_ct: bool) -> Rejection:
    """Every reason that a person must clear before this study can be analysed; the same sentence once.

    Args:
        study: with all its series.
        reasons: by Series Instance UID, one for every series.
        any_ct: there is a usable CT.
    """
    functional = _reasons_of(study, reasons, FUNCTIONAL_CLASSES)
    weighty = [reason for reason in functional if reason.code not in IN_ANY_STUDY]
    told = [reason for reason in weighty or functional if reason.code is not RefusalCode.NO_CT]
    if not functional:
        expected = "an attenuation-corrected PET, or a RECON TOMO SPECT"
        code = RefusalCode.NO_FUNCTIONAL_SERIES
        told.append(Reason(code, "SOPClassUID", "no PET or NM image", expected))
    if not any_ct:
        refused = refused_cts(study, reasons)
        told += [*refused, no_ct(refused)]
    return Rejection(tuple(_once(study, told)))


def refused_cts(study: Study, reasons: Mapping[str, Reason]) -> list[Reason]:
    """Why each CT that isn't a mere scout or projection can't be used."""
    return [item for item in _reasons_of(study, reasons, (CT_IMAGE,)) if item.code not in IN_ANY_STUDY]


def no_ct(refused: Sequence[Reason], series_instance_uid: str = "") -> Reason:
    """That a CT is missing, or that those sent are refused: a person does something else about each."""
    found, advice = "no usable CT series", "Send the CT"
    if refused:
        what = "the CT series was refused" if len(refused) == 1 else f"{len(refused)} CT series were refused"
        found = f"{what}: {'; '.join(dict.fromkeys(_in_brief(reason) for reason in refused))}"
        advice = "Clear the CT's own reason, or send another CT"
    expected = "a CT Image series of the same frame of reference that covers the functional image"
    return Reason(RefusalCode.NO_CT, "SOPClassUID", found, expected, advice, series_instance_uid)


def rejection_lines(reasons: Iterable[Reason], verdicts: Sequence[SeriesVerdict]) -> list[str]:
    """One line a reason, with modality and UID of the series it is about, or how many series share it."""
    return [f"{_subject(reason, verdicts)}{reason}" for reason in reasons]


def _subject(reason: Reason, verdicts: Sequence[SeriesVerdict]) -> str:
    uid = reason.series_instance_uid
    about = next((verdict for verdict in verdicts if verdict.series_instance_uid == uid), None)
    if about is None:
        return ""
    alike = [item for item in verdicts if item.modality == about.modality and str(item.reason) == str(reason)]
    if len(alike) > 1:
        return f"{len(alike)} {about.modality} series: "
    return f"{about.modality} series {uid}: "


def _in_brief(reason: Reason) -> str:
    subject = f"{reason.attribute}: " if reason.attribute else ""
    return f"[{reason.code}] {subject}found {reason.found}"


def _reasons_of(study: Study, reasons: Mapping[str, Reason], classes: Sequence[str]) -> list[Reason]:
    of_class = (item.series_instance_uid for item in study.series if item.sop_class_uid in classes)
    return [reasons[uid] for uid in of_class if uid in reasons]


def _once(study: Study, reasons: Iterable[Reason]) -> Iterable[Reason]:
    """The first of those that say the same about series of one modality, in order."""
    modality = {series.series_instance_uid: series.modality for series in study.series}
    kept: dict[tuple[str, str], Reason] = {}
    for reason in reasons:
        kept.setdefault((modality.get(reason.series_instance_uid, ""), str(reason)), reason)
    return kept.values()
