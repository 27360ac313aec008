"""The grey scale's upper end on the page: fixed for a PET, fitted to the image for a SPECT."""

from __future__ import annotations

import math

import numpy as np

from app.dicom.result_context import ResultContext
from app.domain.findings.findings import Lesion
from app.domain.study import StudyKind
from app.imaging.mip import anterior

LESION_AT_SHARE = 0.5
"""Of the grey scale: where a faint lesion's maximum stands, well apart from white and from black."""

FAINT_PERCENTILE = 25.0
"""Of the lesions' SUVmax: three of four lesions are darker than ``LESION_AT_SHARE``."""

BRIGHT_PERCENTILE = 99.0
"""Of the anterior projection: an image without lesions is black in its kidneys or bladder alone."""

LOWEST_WINDOW_SUV, WINDOW_STEP_SUV = 1.5, 0.5
"""A window below the floor would show noise as uptake; steps make a number that a person can read."""


def window_suv(context: ResultContext) -> float:
    """Upper end of the page's grey scale, SUVbw (g/ml); the same analysis gives the same number.

    A SPECT days after the injection has faint lesions beside bright kidneys, another is bright throughout:
    one fixed window would show one of them empty. ``write.page_window_spect_suv`` is its ceiling.
    """
    widest = widest_window_suv(context)
    if not is_fitted(context):
        return widest
    lesions = context.quantified.findings.lesions
    wanted = _faint_lesion(lesions) / LESION_AT_SHARE if lesions else _bright_uptake(context)
    rounded = math.ceil(wanted / WINDOW_STEP_SUV) * WINDOW_STEP_SUV
    return min(max(rounded, LOWEST_WINDOW_SUV), widest)


def is_fitted(context: ResultContext) -> bool:
    """Whether the window depends on the image, which the page then says. A PET's never does."""
    return context.loaded.selection.kind is StudyKind.SPECT_CT


def widest_window_suv(context: ResultContext) -> float:
    """The site's setting for this kind of study: the window of a PET, the ceiling of a SPECT's."""
    policy, kind = context.policy, context.loaded.selection.kind
    return policy.page_window_pet_suv if kind is StudyKind.PET_CT else policy.page_window_spect_suv


def _faint_lesion(lesions: tuple[Lesion, ...]) -> float:
    return float(np.percentile([lesion.suv_max for lesion in lesions], FAINT_PERCENTILE))


def _bright_uptake(context: ResultContext) -> float:
    suv = context.loaded.suv
    return float(np.percentile(anterior(suv.array, suv.grid).image, BRIGHT_PERCENTILE))
