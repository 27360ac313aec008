"""A simulated patient as files: PET/CT, SPECT/CT, and the true lesions of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from app.phantom.centres import Modality
from app.phantom.ct_writer import ct_slices
from app.phantom.dicom_header import Examination, save
from app.phantom.nm_writer import spect_instance
from app.phantom.patient import SimulatedPatient
from app.phantom.protocol import draw_protocols
from app.phantom.pt_writer import pet_slices
from app.phantom.truth_files import TruthFileForm, write_truth


@dataclass(frozen=True)
class WrittenScan:
    """Files of one examination; ``truth`` is None when no lesion is to be seen."""

    functional: tuple[Path, ...]
    ct: tuple[Path, ...]
    truth: Path | None

    @property
    def images(self) -> tuple[Path, ...]:
        """What a scanner would send: functional image and CT, not the truth."""
        return self.functional + self.ct


@dataclass(frozen=True)
class WrittenPatient:
    """Files of both examinations."""

    pet: WrittenScan
    spect: WrittenScan


def write_patient(
    patient: SimulatedPatient,
    out_dir: Path,
    rwvm: bool = True,
    truth_form: TruthFileForm = TruthFileForm.SEG,
) -> WrittenPatient:
    """Write a patient to ``out_dir``: ``pet/``, ``ct_pet/``, ``spect/``, ``ct_spect/`` and ``truth/``.

    The same patient gives the same bytes. ``rwvm=False`` writes a SPECT in counts without a unit.
    """
    protocols = draw_protocols(patient)
    pet = Examination(patient, Modality.PET, protocols[Modality.PET])
    spect = Examination(patient, Modality.SPECT, protocols[Modality.SPECT])
    return WrittenPatient(
        pet=_write_scan(pet, pet_slices(pet), out_dir, truth_form),
        spect=_write_scan(spect, [spect_instance(spect, rwvm)], out_dir, truth_form),
    )


def _write_scan(
    exam: Examination, functional: list[Dataset], out_dir: Path, truth_form: TruthFileForm
) -> WrittenScan:
    name = exam.modality.value
    return WrittenScan(
        functional=_write_series(functional, out_dir / name),
        ct=_write_series(ct_slices(exam), out_dir / f"ct_{name}"),
        truth=write_truth(exam, functional, truth_form, out_dir / "truth"),
    )


def _write_series(instances: Sequence[Dataset], folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(save(one, folder / f"{one.Modality}{one.InstanceNumber:04d}.dcm") for one in instances)
