"""Two simulated patients, and both as files: made once for all tests of this folder.

The files hold only part of each CT: hundreds of slices more would prove nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.volume import Grid, Volume
from app.phantom.acquisition import Acquisition
from app.phantom.centres import Centre
from app.phantom.dicom.writer import WrittenPatient, write_patient
from app.phantom.patient import SimulatedPatient
from tests.phantom.simulated import simulated

NUMBERS = {Centre.A: 3, Centre.B: 5}
CT_SLICES = slice(150, 170)


def with_short_ct(scan: Acquisition) -> Acquisition:
    """The scan with the CT's slices ``CT_SLICES`` only, where they were."""
    array, affine = scan.ct.array[CT_SLICES], scan.ct.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * CT_SLICES.start
    return replace(scan, ct=Volume(array, Grid((len(array), *array.shape[1:]), affine), scan.ct.unit))


@pytest.fixture(scope="session")
def patients() -> Mapping[Centre, SimulatedPatient]:
    """One patient of each centre."""
    return {centre: simulated(number, centre) for centre, number in NUMBERS.items()}


@pytest.fixture(scope="session")
def written(
    patients: Mapping[Centre, SimulatedPatient], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[Centre, WrittenPatient]:
    """The same two patients as DICOM."""
    folder: Path = tmp_path_factory.mktemp("phantom")
    found = {}
    for centre, patient in patients.items():
        short = replace(patient, pet=with_short_ct(patient.pet), spect=with_short_ct(patient.spect))
        found[centre] = write_patient(short, folder / centre.value)
    return found


@pytest.fixture(params=list(Centre), ids=[centre.value for centre in Centre])
def centre(request: pytest.FixtureRequest) -> Centre:
    """Each centre in turn."""
    found: Centre = request.param
    return found


@pytest.fixture
def patient(patients: Mapping[Centre, SimulatedPatient], centre: Centre) -> SimulatedPatient:
    """The patient of that centre."""
    return patients[centre]


@pytest.fixture
def files(written: Mapping[Centre, WrittenPatient], centre: Centre) -> WrittenPatient:
    """Its files."""
    return written[centre]
