"""One simulated patient on disk, and a processor with a threshold instead of a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.chain import application
from app.chain.application import ChainProcessor
from app.chain.folder import RunResults
from app.phantom.centres import Centre
from app.phantom.dicom.writer import WrittenPatient, write_patient
from app.phantom.patient import simulate_patient
from app.settings import Settings, load_settings
from tests.chain.fakes import ThresholdSegmentation


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> WrittenPatient:
    """Patient 7 of centre A, PET/CT and SPECT/CT."""
    return write_patient(simulate_patient(7, Centre.A), tmp_path_factory.mktemp("patient"))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults, with a threshold where the networks would be."""
    use_segmentation(monkeypatch, ThresholdSegmentation)
    return load_settings()


def use_segmentation(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[[], object]) -> None:
    """Every processor made from now on segments with ``stand_in``."""
    monkeypatch.setattr(application, "LesionSegmentation", lambda policy: stand_in())


def processor(settings: Settings) -> ChainProcessor:
    """A processor for single studies, without earlier results."""
    return ChainProcessor(settings, RunResults(settings.load))


def links_to(images: tuple[Path, ...], folder: Path, name: Callable[[int], str]) -> Path:
    """The images in a folder under other names."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        target = folder / name(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(image)
    return folder
