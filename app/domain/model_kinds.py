"""Which kinds of study each model looks at, in training as in use."""

from __future__ import annotations

from app.domain.analysis import ModelRole
from app.domain.study import StudyKind

KINDS = {
    ModelRole.M1: (StudyKind.PET_CT,),
    ModelRole.M2: (StudyKind.SPECT_CT,),
    ModelRole.M3: (StudyKind.PET_CT, StudyKind.SPECT_CT),
    ModelRole.M4: (StudyKind.SPECT_CT,),
}
"""M3 sees both, one at a time: in its training PET and SPECT are cases of their own."""
