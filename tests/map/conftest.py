"""One image for all of these tests: building it takes minutes the first time, then seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.phantom.centres import Centre
from app.phantom.dicom.writer import WrittenPatient, write_patient
from app.phantom.patient import simulate_patient
from tests.map.package import Package, build


@pytest.fixture(scope="session")
def package() -> Package:
    return build()


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> WrittenPatient:
    """A simulated PET/CT, and the SPECT/CT of the same patient weeks later."""
    return write_patient(simulate_patient(2001, Centre.A), tmp_path_factory.mktemp("patient"))


@pytest.fixture(scope="session")
def studies(patient: WrittenPatient) -> Path:
    """The folder of both, which every user may read."""
    folder = patient.pet.images[0].parents[1]
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder
