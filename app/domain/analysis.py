"""What travels along the chain: one frozen record a stage, each holding the one before.

``Selection → Loaded → Aligned → Segmented → Quantified``; a :class:`~app.domain.refusal.Rejection`
may take the place of any of them. :class:`Provenance` says what made a result, and :data:`KINDS` which kinds
of study each model looks at, in training as in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.domain.decision import Decision, ModelRole, ModelUsed
from app.domain.findings.comparability import ScanFacts
from app.domain.findings.findings import Findings, ReferenceUptake
from app.domain.quantities.suv_scale import Quantification
from app.domain.refusal import Reason
from app.domain.selection.pair import Selection
from app.domain.stack.ct_agreement import CtAgreement
from app.domain.study import Series, StudyKind
from app.domain.volume import LabelMap, Unit, Volume


@dataclass(frozen=True)
class LiverScale:
    """What a SPECT in counts is related to.

    Attributes:
        liver: where and how it was found; its mean is 1 by definition.
        assumed_suv: what the liver is given for the networks and for nothing else, g/ml SUVbw.
        why: why the image has no SUV, in words.
    """

    liver: ReferenceUptake
    assumed_suv: float
    why: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """Volumes in physical units.

    Attributes:
        uptake: functional image, in SUVbw; or, not quantified, over the mean of the liver. From counts it is
            ``Unit.COUNTS`` until the liver is found.
        activity: functional image in Bq/ml; ``None`` when the source is SUV already, or not quantified.
        ct: in HU, on its own grid.
        slice_sop_instance_uids: for each z index of the functional grid, the SOP instance it came from
            (one repeated UID for a multi-frame).
        slice_frame_numbers: for each z index, the 1-based frame number in that instance.
        ct_agreement: how the image lies on its CT; ``None`` when that was not or could not be measured.
        ct_doubt: why nothing is read from the CT at lesions and organs; empty when the image lies on it.
        liver_scale: what ``uptake`` is relative to; ``None`` when it is SUVbw.
        joined: the functional series that were joined, the selection's among them; empty for a single one.
    """

    selection: Selection
    uptake: Volume
    activity: Volume | None
    ct: Volume
    quantification: Quantification
    slice_sop_instance_uids: tuple[str, ...]
    slice_frame_numbers: tuple[int, ...]
    decisions: tuple[Decision, ...] = ()
    ct_agreement: CtAgreement | None = None
    ct_doubt: str = ""
    liver_scale: LiverScale | None = None
    joined: tuple[Series, ...] = ()

    @property
    def functional_series(self) -> tuple[Series, ...]:
        """Every series that the functional image was made of."""
        return self.joined or (self.selection.functional,)

    @property
    def network_uptake(self) -> Volume:
        """What networks and placing see: SUVbw, assumed where the image is not quantified; never reported."""
        if self.liver_scale is None:
            return self.uptake
        return self.uptake.scaled(self.liver_scale.assumed_suv, Unit.SUVBW)

    @property
    def facts(self) -> ScanFacts:
        """What a comparison with another scan of the patient hangs on."""
        selection, uptake_s = self.selection, self.quantification.uptake_s
        scan = selection.kind, selection.tracer.key
        return ScanFacts.of(selection.study.patient, scan, selection.functional, uptake_s, self.uptake.grid)


@dataclass(frozen=True)
class RegistrationFit:
    """How well a SPECT/CT and an earlier PET/CT were brought together; every number that the limits check.

    ``fixed`` is the SPECT's CT, ``moving`` the PET's CT. ``None`` was not measured, and breaks its limit.
    """

    bone_dice: float
    translation_mm: float
    rotation_deg: float
    overlap_fraction: float
    """Share of the fixed CT's body that the moved CT's field of view covers."""
    soft_tissue_correlation: float
    bone_distance_mm: float | None = None
    """Within this distance 75 % of the trunk's bone has bone of the other CT."""
    side_correlation: float | None = None
    """Correlation of left-minus-right in both CTs; negative when one is mirrored."""
    stretch: float | None = None
    """Difference in body length beyond what bending explains; 0.03 is 3 %."""
    thickness_difference_mm: float | None = None
    """Mean difference of the trunk's thickness, front to back."""
    rival_overlap: float | None = None
    """Bone overlap at the best other place, as a share of the overlap here; near 1 the place is a guess."""
    uptake_shift_mm: float | None = None
    """From the registered place to the one where PET and SPECT uptake agree best."""
    lesions_on_pet: float | None = None
    """Contrast of PET uptake under the lesions, as a share of that at the best place within reach."""
    lesions_on_spect: float | None = None
    """The same on the SPECT."""


@dataclass(frozen=True, eq=False)
class Prior:
    """The patient's earlier PET lesions on the SPECT grid.

    Attributes:
        mask: on the functional grid of the SPECT.
        segmentation_sop_instance_uid: the SEG it came from; empty when the PET result was "no lesion".
        study_instance_uid, series_instance_uid: of the PET.
    """

    mask: LabelMap
    fit: RegistrationFit
    study_instance_uid: str
    series_instance_uid: str
    segmentation_sop_instance_uid: str
    acquired_at: datetime | None


@dataclass(frozen=True, eq=False)
class Aligned:
    """Loaded volumes, with a prior or the reasons why there is none (both empty for PET)."""

    loaded: Loaded
    prior: Prior | None = None
    no_prior: tuple[Reason, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, eq=False)
class Segmented:
    """Lesions as labels on the functional grid, largest first.

    Attributes:
        computed_by: the GPU, its tiles where they were not the trained ones, and numbers that are not of
            single precision; empty for the CPU with those. Another one rounds otherwise, so it is part of
            the results' identity.
    """

    aligned: Aligned
    labels: LabelMap
    model: ModelUsed
    decisions: tuple[Decision, ...] = ()
    computed_by: str = ""

    @property
    def prior_used(self) -> bool:
        """Whether the model saw the prior: only M4 does, whatever is at hand."""
        return self.aligned.prior is not None and self.model.role is ModelRole.M4


@dataclass(frozen=True, eq=False)
class Quantified:
    """The whole analysis of one pair: all that the writers need."""

    segmented: Segmented
    findings: Findings

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every decision along the chain, in order."""
        aligned = self.segmented.aligned
        loaded = aligned.loaded
        before = (*loaded.selection.told, *loaded.decisions, *aligned.decisions)
        return (*before, *self.segmented.decisions, *self.findings.decisions)


@dataclass(frozen=True)
class SupersededReport:
    """The SR of an earlier revision, which a new one replaces (Predecessor Documents Sequence).

    Attributes:
        revision: of the study, that it was made from.
        functional_series_instance_uid: the series it is about.
        is_withdrawal: it is no result, but the notice that withdrew one.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    revision: int
    functional_series_instance_uid: str
    is_withdrawal: bool = False


@dataclass(frozen=True)
class Provenance:
    """What made the result, apart from the model.

    Attributes:
        processed_at: when the analysis began, with its zone; ``None`` when unknown.
        decisions: what was decided about the study before the chain began.
    """

    software_version: str
    settings_digest: str
    revision: int = 1
    supersedes: tuple[SupersededReport, ...] = ()
    processed_at: datetime | None = None
    decisions: tuple[Decision, ...] = ()

    def superseded_on(self, functional_series_instance_uid: str) -> SupersededReport | None:
        """The report that a new one on this series replaces; ``None`` when it is the first."""
        of_series = (
            report
            for report in self.supersedes
            if report.functional_series_instance_uid == functional_series_instance_uid
        )
        return next(of_series, None)


KINDS = {
    ModelRole.M1: (StudyKind.PET_CT,),
    ModelRole.M2: (StudyKind.SPECT_CT,),
    ModelRole.M3: (StudyKind.PET_CT, StudyKind.SPECT_CT),
    ModelRole.M4: (StudyKind.SPECT_CT,),
}
"""M3 sees both, one at a time: in its training PET and SPECT are cases of their own."""
