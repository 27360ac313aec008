"""Measurements as DICOM SR (PS3.16 TID 1500): a group a lesion (TID 1411), one for the body (TID 1501).

highdicom has the templates for measurements. Its image library (TID 1600) repeats every descriptor in every
image and needs attributes that NM has not, so the library here is grouped: what all images share stands once
(TID 1602), below it the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.tag import Tag
from pydicom.valuerep import DA, TM

from app.dicom.results.context import (
    DEVICE_NAME,
    MANUFACTURER,
    ResultContext,
    blank_source,
    coded,
    finish,
    plain,
    plain_item,
    reference,
)
from app.dicom.results.policy import SrClass
from app.dicom.results.report.content import container, qualitative_evaluations
from app.dicom.results.report.quantities import (
    Quantity,
    add_instant,
    add_remark,
    lesion_quantities,
    processed_local,
    uptake_item,
    whole_body_quantities,
)
from app.dicom.uids import ResultKind, derived_uid
from app.domain import codes
from app.domain.analysis import SupersededReport
from app.domain.findings.findings import Lesion
from app.domain.study import Instance, Series, StudyKind

WHOLE_BODY = "Whole body"

CONTENT = Tag("ContentSequence")

REPORT_CLASSES = {
    SrClass.COMPREHENSIVE_3D: hd.sr.Comprehensive3DSR,
    SrClass.COMPREHENSIVE: hd.sr.ComprehensiveSR,
}


def write_report(context: ResultContext, segmentation: Dataset | None) -> Dataset:
    """The SR of an analysis, whose groups refer to the segments of ``segmentation``.

    With no lesion, and so without a SEG, it says so and has the whole-body group alone.
    """
    source = blank_source(context)
    sources = [] if segmentation is None else [segmentation]
    root = _content(context, segmentation)
    content = list(root.ContentSequence)
    root.ContentSequence = []  # highdicom copies what it holds and searches it, item by item: it comes later
    report = REPORT_CLASSES[context.policy.sr_class](
        evidence=[source, *sources],  # patient and study are taken from the first
        content=root,
        is_complete=True,
        previous_versions=None if context.replaced is None else [predecessor(context.replaced)],
        coding_schemes=[private_scheme()],
        **context.instance(ResultKind.SR, "PSMA measurements"),
    )
    content.insert(len(content) - 2, image_library(context))  # before the measurements (TID 1500 row 5)
    report[CONTENT] = DataElement(CONTENT, "SQ", content)
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(context, [source, *sources])]
    finish(report, context)
    _date_content(report, context)
    return report


def _date_content(report: Dataset, context: ResultContext) -> None:
    """Content Date and Time: when the content was made (PS3.3 C.17.2.1), where that is known."""
    processed = processed_local(context)
    if processed is None:
        return
    report.ContentDate, report.ContentTime = DA(processed.date()), TM(processed.time())
    report.InstanceCreationDate, report.InstanceCreationTime = report.ContentDate, report.ContentTime


def _content(context: ResultContext, segmentation: Dataset | None) -> hd.sr.ContainerContentItem:
    """The root with all but the image library."""
    groups: list[hd.sr.MeasurementsAndQualitativeEvaluations] = [_whole_body_group(context)]
    if segmentation is not None:
        lesions = context.quantified.findings.lesions
        groups.extend(_lesion_group(context, lesion, segmentation) for lesion in lesions)
    procedure = (
        codes.PET_OF_WHOLE_BODY
        if context.loaded.selection.kind is StudyKind.PET_CT
        else codes.SPECT_CT_OF_WHOLE_BODY
    )
    report = hd.sr.MeasurementReport(
        observation_context=observer(context.provenance.software_version),
        procedure_reported=coded(procedure),
        imaging_measurements=groups,
        title=coded(codes.IMAGING_MEASUREMENT_REPORT),
    )
    root: hd.sr.ContainerContentItem = report[0]
    root.ContentSequence.append(qualitative_evaluations(context))
    return root


def observer(version: str) -> hd.sr.ObservationContext:
    """The program itself observed (TID 1004)."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", DEVICE_NAME, version),
        name=DEVICE_NAME,
        manufacturer_name=MANUFACTURER,
        model_name=f"{DEVICE_NAME} {version}",
    )
    observer = hd.sr.ObserverContext(dicom_codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.ObservationContext(observer_device_context=observer)


def _lesion_group(
    context: ResultContext, lesion: Lesion, segmentation: Dataset
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    of_one = hd.sr.SourceSeriesForSegmentation(context.functional.series_instance_uid)
    segment = hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=lesion.number,
        source_series=None if context.loaded.joined else of_one,
        source_images=_images_of(lesion, context) if context.loaded.joined else None,
    )
    identifier, uid = context.tracking(lesion.number)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_segment=segment,
        finding_category=coded(codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE),
        finding_type=coded(codes.NEOPLASM),
        finding_sites=_finding_sites(lesion),
        algorithm_id=algorithm(context, in_full=False),
        measurements=[_measurement(quantity) for quantity in lesion_quantities(lesion, context)],
    )


def _images_of(lesion: Lesion, context: ResultContext) -> list[hd.sr.SourceImageForSegmentation]:
    """The images that a lesion lies in, where they are of several series."""
    inside = (context.quantified.segmented.labels.array == lesion.number).any(axis=(1, 2))
    uids = dict.fromkeys(context.loaded.slice_sop_instance_uids[z] for z in np.flatnonzero(inside))
    return [hd.sr.SourceImageForSegmentation(context.functional.sop_class_uid, uid) for uid in uids]


def _finding_sites(lesion: Lesion) -> list[hd.sr.FindingSite] | None:
    """``None`` where no rule decided the site."""
    code = codes.SITES.get(lesion.site)
    return None if code is None else [hd.sr.FindingSite(anatomic_location=coded(code))]


def _whole_body_group(context: ResultContext) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    _, uid = context.tracking(0)
    findings = context.quantified.findings
    found = findings.burden.lesion_count > 0
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=WHOLE_BODY),
        finding_category=coded(codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE) if found else None,
        finding_type=coded(codes.NEOPLASM) if found else None,
        finding_sites=[hd.sr.FindingSite(anatomic_location=coded(codes.ENTIRE_BODY))],
        algorithm_id=algorithm(context, in_full=True),
        measurements=[_measurement(quantity) for quantity in whole_body_quantities(context)],
    )


def _measurement(quantity: Quantity) -> hd.sr.Measurement:
    measurement = hd.sr.Measurement(
        name=coded(quantity.name),
        value=quantity.value,
        unit=coded(quantity.unit),
        derivation=None if quantity.derivation is None else coded(quantity.derivation),
        method=None if quantity.method is None else coded(quantity.method),
    )
    if quantity.instant is not None:
        add_instant(measurement, quantity.instant)
    _add_range(measurement, quantity)
    if quantity.remark:
        add_remark(measurement, quantity.remark)
    return measurement


def _add_range(measurement: hd.sr.Measurement, quantity: Quantity) -> None:
    """How far the true number may lie to either side (TID 310, CID 225), in the number's own unit."""
    ends = ((codes.UPPER_UNCERTAINTY, quantity.above), (codes.LOWER_UNCERTAINTY, quantity.below))
    for name, value in ends:
        if value is not None:
            measurement[0].ContentSequence.append(
                hd.sr.NumContentItem(
                    name=coded(name),
                    value=value,
                    unit=coded(quantity.unit),
                    relationship_type=hd.sr.RelationshipTypeValues.HAS_PROPERTIES,
                )
            )


def predecessor(earlier: SupersededReport) -> Dataset:
    """An earlier report, as highdicom wants it for the Predecessor Documents Sequence."""
    found = Dataset()
    found.StudyInstanceUID = earlier.study_instance_uid
    found.SeriesInstanceUID = earlier.series_instance_uid
    found.SOPClassUID = earlier.sop_class_uid
    found.SOPInstanceUID = earlier.sop_instance_uid
    return found


def private_scheme() -> CodingSchemeIdentificationItem:
    """What the designator of our own codes stands for."""
    return CodingSchemeIdentificationItem(
        designator=codes.PRIVATE_SCHEME,
        name=codes.PRIVATE_SCHEME_NAME,
        version=codes.PRIVATE_SCHEME_VERSION,
        responsible_organization=MANUFACTURER,
    )


def algorithm(context: ResultContext, in_full: bool) -> hd.sr.AlgorithmIdentification:
    """TID 4019: which model; in full also its weights, the software, the settings and the revision."""
    model, provenance = context.model, context.provenance
    parameters = (
        f"weights SHA-256: {model.weights_sha256}",
        f"software version: {provenance.software_version}",
        f"settings SHA-256: {provenance.settings_digest}",
        f"revision: {provenance.revision}",
    )
    return hd.sr.AlgorithmIdentification(
        name=plain(f"{model.role.value} {model.model_id}"),
        version=plain(model.version),
        manufacturer=MANUFACTURER,
        parameters=[plain(text) for text in parameters] if in_full else None,
    )


def image_library(context: ResultContext) -> hd.sr.ContainerContentItem:
    """TID 1600 with one group a series: the functional images, then the CT."""
    library = container(codes.IMAGE_LIBRARY)
    sources = (*context.loaded.functional_series, context.ct)
    groups = [_library_group(series, context) for series in sources]
    library.ContentSequence = hd.sr.ContentSequence(groups)
    return library


def _evidence(context: ResultContext, others: Sequence[Dataset]) -> Dataset:
    """Everything that the report is made from, all of one study: ``others``, each first or last in its
    series, and every input instance.
    """
    source, *results = others
    functional = context.functional.series_instance_uid
    groups: dict[str, list[Dataset]] = {functional: [reference(source.SOPClassUID, source.SOPInstanceUID)]}
    for series, instance in _inputs(context):
        if instance.sop_instance_uid != source.SOPInstanceUID:
            items = groups.setdefault(series.series_instance_uid, [])
            items.append(reference(instance.sop_class_uid, instance.sop_instance_uid))
    for each in results:
        groups[each.SeriesInstanceUID] = [reference(each.SOPClassUID, each.SOPInstanceUID)]
    study = Dataset()
    study.StudyInstanceUID = context.loaded.selection.study.study_instance_uid
    study.ReferencedSeriesSequence = [_series_item(uid, items) for uid, items in groups.items()]
    return study


def _series_item(series_instance_uid: str, items: list[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    item.ReferencedSOPSequence = items
    return item


def _inputs(context: ResultContext) -> Iterator[tuple[Series, Instance]]:
    """Every input instance."""
    for series in (*context.loaded.functional_series, context.ct):
        for instance in in_order(series):
            yield series, instance


def in_order(series: Series) -> list[Instance]:
    """The instances of a series by SOP Instance UID, as every result lists them; an enhanced one once."""
    once = {item.sop_instance_uid: item for item in series.instances}
    return [once[uid] for uid in sorted(once)]


def _library_group(series: Series, context: ResultContext) -> hd.sr.ContainerContentItem:
    group = container(codes.IMAGE_LIBRARY_GROUP)
    acquisition = hd.sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    items: list[hd.sr.ContentItem] = []
    if series.modality in codes.ACQUISITION_MODALITY:
        value = coded(codes.ACQUISITION_MODALITY[series.modality])
        items.append(hd.sr.CodeContentItem(coded(codes.MODALITY), value, acquisition))
    frame = series.frame_of_reference_uid or (
        context.frame_of_reference_uid if series is context.functional else ""
    )
    if frame:
        name = coded(codes.FRAME_OF_REFERENCE_UID)
        items.append(hd.sr.UIDRefContentItem(name=name, value=frame, relationship_type=acquisition))
    if series is context.functional and (uptake := uptake_item(context)) is not None:
        items.append(uptake)
    shared = (
        DataElement(Tag("RelationshipType"), "CS", hd.sr.RelationshipTypeValues.CONTAINS.value),
        DataElement(Tag("ValueType"), "CS", hd.sr.ValueTypeValues.IMAGE.value),
        DataElement(Tag("ConceptNameCodeSequence"), "SQ", [coded(codes.SOURCE)]),
    )
    images = []
    for instance in in_order(series):
        item = reference(instance.sop_class_uid, instance.sop_instance_uid)
        images.append(plain_item(*shared, DataElement(Tag("ReferencedSOPSequence"), "SQ", [item])))
    group[CONTENT] = DataElement(CONTENT, "SQ", [*items, *images])
    return group
