"""Content items of the report: provenance, statements and the image library, as text and references.

highdicom has the templates for measurements (TID 1411, 1501); its image library (TID 1600) repeats every
descriptor in every image and needs attributes that NM has not, so the library here is grouped: what all
images share stands once (TID 1602), below it the images.
"""

from __future__ import annotations

from collections.abc import Iterator

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset

from app.dicom.results.context import MANUFACTURER, RESEARCH_USE, ResultContext, coded, plain
from app.dicom.results.report.quantities import (
    activity_instant_in_words,
    processed_item,
    uptake_in_words,
    uptake_item,
)
from app.dicom.results.report.statements import biomarker_statements
from app.domain.analysis import Prior, RegistrationFit
from app.domain.codes import (
    ACQUISITION_MODALITY,
    DECISION,
    FRAME_OF_REFERENCE_UID,
    IMAGE_LIBRARY,
    IMAGE_LIBRARY_GROUP,
    INPUT,
    INTENDED_USE,
    MODALITY,
    PRIOR,
    QUALITATIVE_EVALUATIONS,
    QUANTIFICATION,
    REPLACES,
    SOURCE,
    SUMMARY,
)
from app.domain.quantities.quantification import Quantification
from app.domain.study import Code, Series, StudyKind

DEMONSTRATION_MODEL = "Demonstration model, trained on simulated patients"
NO_LESION = "No lesion found"


def algorithm(context: ResultContext, in_full: bool) -> AlgorithmIdentification:
    """TID 4019: which model; in full also its weights, the software, the settings and the revision."""
    model, provenance = context.model, context.provenance
    parameters = (
        f"weights SHA-256: {model.weights_sha256}",
        f"software version: {provenance.software_version}",
        f"settings SHA-256: {provenance.settings_digest}",
        f"revision: {provenance.revision}",
    )
    return AlgorithmIdentification(
        name=plain(f"{model.role.value} {model.model_id}"),
        version=plain(model.version),
        manufacturer=MANUFACTURER,
        parameters=[plain(text) for text in parameters] if in_full else None,
    )


def qualitative_evaluations(context: ResultContext) -> ContainerContentItem:
    """TID 1500 row 10: the summary, the intended use, and how the numbers came about, in words."""
    container = ContainerContentItem(
        name=coded(QUALITATIVE_EVALUATIONS), relationship_type=RelationshipTypeValues.CONTAINS
    )
    items: list[ContentItem] = [
        TextContentItem(
            name=coded(name), value=plain(text), relationship_type=RelationshipTypeValues.CONTAINS
        )
        for name, text in _statements(context)
    ]
    if (processed := processed_item(context)) is not None:
        items.append(processed)
    container.ContentSequence = ContentSequence(items)
    return container


def summary(context: ResultContext) -> str:
    """One sentence on the burden."""
    burden = context.quantified.findings.burden
    if burden.lesion_count == 0:
        return NO_LESION
    noun = "lesion" if burden.lesion_count == 1 else "lesions"
    return f"{burden.lesion_count} {noun}, PSMA-TV {burden.psma_tv_ml:.1f} ml, TL-PSMA {burden.tl_psma:.1f} g"


def warnings_statement(warnings: tuple[str, ...]) -> str:
    """What a reader of the numbers must know first: the decisions that are warnings, counted and in full."""
    noun = "warning" if len(warnings) == 1 else "warnings"
    numbered = (f"({number}) {text}" for number, text in enumerate(warnings, start=1))
    return f"{len(warnings)} {noun}: {'; '.join(numbered if len(warnings) > 1 else warnings)}"


def replaces_statement(context: ResultContext) -> str:
    """Which earlier result this one takes the place of; empty for the first."""
    earlier = context.replaced
    if earlier is None:
        return ""
    what = "notice of withdrawal" if earlier.is_withdrawal else "result"
    return f"Revision {context.provenance.revision}: replaces the {what} of revision {earlier.revision}"


def prior_statement(context: ResultContext, with_uids: bool = True) -> str:
    """Which prior was used and how it fits, or why none; empty for PET, which has none."""
    aligned = context.quantified.segmented.aligned
    if context.loaded.selection.kind is StudyKind.PET_CT:
        return ""
    if aligned.prior is None:
        reasons = "; ".join(str(reason) for reason in aligned.no_prior)
        return f"No prior used: {reasons or 'no reason recorded'}"
    segmented = context.quantified.segmented
    used = "Prior used" if segmented.prior_used else f"Prior not used by {segmented.model.role.value}"
    return f"{used}: {_prior_in_words(aligned.prior, with_uids)}"


def image_library(context: ResultContext) -> ContainerContentItem:
    """TID 1600 with one group a series: the functional images, then the CT."""
    library = _container(IMAGE_LIBRARY)
    groups = [_library_group(series, context) for series in (context.functional, context.ct)]
    library.ContentSequence = ContentSequence(groups)
    return library


def evidence(context: ResultContext) -> Iterator[Dataset]:
    """Every input instance, as the report's evidence sequences want it."""
    for series in (context.functional, context.ct):
        for instance in sorted(series.instances, key=lambda item: item.sop_instance_uid):
            reference = Dataset()
            reference.StudyInstanceUID = context.loaded.selection.study.study_instance_uid
            reference.SeriesInstanceUID = series.series_instance_uid
            reference.SOPClassUID = instance.sop_class_uid
            reference.SOPInstanceUID = instance.sop_instance_uid
            yield reference


def _statements(context: ResultContext) -> Iterator[tuple[Code, str]]:
    yield SUMMARY, summary(context)
    if context.warnings:
        yield SUMMARY, warnings_statement(context.warnings)
    if context.replaced is not None:
        yield REPLACES, f"{replaces_statement(context)} (SR {context.replaced.sop_instance_uid})"
    yield INTENDED_USE, RESEARCH_USE
    if context.model.demonstration_only:
        yield INTENDED_USE, DEMONSTRATION_MODEL
    selection = context.loaded.selection
    yield INPUT, f"{selection.functional.modality} series {selection.functional.series_instance_uid}"
    yield INPUT, f"CT series {selection.ct.series_instance_uid}"
    yield QUANTIFICATION, quantification_in_words(context.loaded.quantification)
    if (instant := context.quantified.findings.activity_instant) is not None:
        yield QUANTIFICATION, f"activities as at: {activity_instant_in_words(instant)}"
    if prior := prior_statement(context):
        yield PRIOR, prior
    yield from biomarker_statements(context.quantified.findings)
    for decision in context.decisions:
        yield DECISION, f"{decision.stage}: {decision.line}"


def quantification_in_words(used: Quantification) -> str:
    """How stored values became SUV and Bq/ml, with every number used."""
    parts = [used.source]
    if used.suv_per_bqml is not None:
        parts.append(f"SUVbw per Bq/ml {used.suv_per_bqml:.6g}")
    if used.injected_activity_bq is not None:
        parts.append(f"administered {used.injected_activity_bq / 1e6:.5g} MBq")
    if used.administered_at is not None:
        parts.append(f"at {used.administered_at.isoformat(sep=' ')}")
    if used.reference_datetime is not None:
        parts.append(f"image decay corrected to {used.reference_datetime.isoformat(sep=' ')}")
    if used.uptake_s is not None:
        parts.append(f"uptake time {uptake_in_words(used.uptake_s)}")
    if used.weight_kg is not None:
        parts.append(f"weight {used.weight_kg:.5g} kg")
    if used.half_life_s is not None:
        parts.append(f"half-life {used.half_life_s:.8g} s")
    return ", ".join(parts)


def _prior_in_words(prior: Prior, with_uids: bool) -> str:
    when = "of unknown date" if prior.acquired_at is None else f"of {prior.acquired_at.date().isoformat()}"
    segmentation = prior.segmentation_sop_instance_uid
    lesions = f"SEG {segmentation}" if segmentation else NO_LESION.lower()
    origin = f" (series {prior.series_instance_uid}, {lesions})" if with_uids else ""
    return f"PET lesions {when}{origin}; fit CT to CT: {_fit_in_words(prior.fit)}"


def _fit_in_words(fit: RegistrationFit) -> str:
    parts = [
        f"bone Dice {fit.bone_dice:.2f}",
        f"origins differ by {fit.translation_mm:.1f} mm",
        f"rotation {fit.rotation_deg:.1f} deg",
        f"overlap {fit.overlap_fraction:.2f}",
        f"soft tissue correlation {fit.soft_tissue_correlation:.2f}",
    ]
    further = (
        ("bone distance", fit.bone_distance_mm, ".1f", " mm"),
        ("side correlation", fit.side_correlation, ".2f", ""),
        ("stretch", fit.stretch, ".3f", ""),
        ("rival overlap", fit.rival_overlap, ".2f", ""),
    )
    parts += [f"{name} {value:{form}}{unit}" for name, value, form, unit in further if value is not None]
    return ", ".join(parts)


def _library_group(series: Series, context: ResultContext) -> ContainerContentItem:
    group = _container(IMAGE_LIBRARY_GROUP)
    acquisition = RelationshipTypeValues.HAS_ACQ_CONTEXT
    items: list[ContentItem] = []
    if series.modality in ACQUISITION_MODALITY:
        value = coded(ACQUISITION_MODALITY[series.modality])
        items.append(CodeContentItem(name=coded(MODALITY), value=value, relationship_type=acquisition))
    frame = series.frame_of_reference_uid or (
        context.frame_of_reference_uid if series is context.functional else ""
    )
    if frame:
        name = coded(FRAME_OF_REFERENCE_UID)
        items.append(UIDRefContentItem(name=name, value=frame, relationship_type=acquisition))
    if series is context.functional and (uptake := uptake_item(context)) is not None:
        items.append(uptake)
    for instance in sorted(series.instances, key=lambda item: item.sop_instance_uid):
        items.append(
            ImageContentItem(
                name=coded(SOURCE),
                referenced_sop_class_uid=instance.sop_class_uid,
                referenced_sop_instance_uid=instance.sop_instance_uid,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    group.ContentSequence = ContentSequence(items)
    return group


def _container(name: Code) -> ContainerContentItem:
    return ContainerContentItem(name=coded(name), relationship_type=RelationshipTypeValues.CONTAINS)
