"""Names and other texts of the source stand in the results byte for byte, whatever their character set."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator

from app.dicom.header_values import tolerant
from app.dicom.results.context import open_context
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import check_report, check_segmentation, encoded
from app.dicom.results.report.sr import write_report
from app.dicom.results.seg import write_segmentation
from app.dicom.results.withdrawal import write_withdrawal
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Quantified, SupersededReport
from app.domain.outcome import StandingResult
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE

PATIENT_NAME, STUDY_DESCRIPTION, CHARACTER_SET = 0x00100010, 0x00081030, 0x00080005

NAMES = {
    # PS3.5 H.3.1 to H.3.3, I.2, J.3, K.2
    "Japanese, ISO 2022 IR 87": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "Japanese, ISO 2022 IR 13": (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "Japanese, ISO_IR 13 alone": (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
    "Japanese, ISO 2022 IR 159": (
        b"\\ISO 2022 IR 87\\ISO 2022 IR 159",
        b"Y^T=\x1b$B;3\x1b$(D3B\x1b(B^x",
    ),
    "Korean": (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
    "Chinese, GB 2312": (b"\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="),
    "Chinese, GB 18030": (b"GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="),
    "Thai that is none": (b"ISO_IR 166", b"\xfc\xfd\xfe\xff"),
    "Latin 1 under UTF-8": (b"ISO_IR 192", b"M\xfcller^J\xf6rg"),
    "Latin 1 under none": (b"", b"M\xfcller^J\xf6rg"),
    "a character set that does not exist": (b"ISO_IR 999", b"M\xfcller^J\xf6rg"),
    "a sequence that breaks off": (b"\\ISO 2022 IR 87", b"Yamada=\x1b$B;3E\x1b(B"),
    "control characters": (b"ISO_IR 100", b"A\x85B^C\x07"),
}


def padded(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def named(path: Path, character_set: bytes, name: bytes) -> None:
    """Put the bytes into the file; pydicom would encode them in its own way."""
    value = padded(name)
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.StudyDescription = "Q" * len(value), "W" * len(value)
    dataset.save_as(path)
    content = path.read_bytes().replace(b"Q" * len(value), value).replace(b"W" * len(value), value)
    before, now = b"\x08\0\x05\0CS\x0a\0ISO_IR 100", padded(character_set)
    assert before in content
    path.write_bytes(content.replace(before, before[:6] + struct.pack("<H", len(now)) + now))


def stored(content: bytes) -> dict[int, bytes]:
    """The values of name, description and character set as they stand in a file."""
    file = BytesIO(content)
    file.seek(144 + int.from_bytes(content[140:144], "little"))
    with tolerant():
        found = {
            int(element.tag): element.value if isinstance(element, RawDataElement) else None
            for element in data_element_generator(file, False, True)
        }
    wanted = {tag: found[tag] for tag in (PATIENT_NAME, STUDY_DESCRIPTION)}
    at = content.index(b"\x08\0\x05\0CS") + 8
    length = int.from_bytes(content[at - 2 : at], "little")
    return wanted | {CHARACTER_SET: content[at : at + length]}


@pytest.fixture
def pet(tmp_path: Path) -> Quantified:
    return sources.pet(tmp_path / "pet")


@pytest.mark.parametrize("case", NAMES)
def test_texts_are_the_sources_bytes(pet: Quantified, case: str, caplog: pytest.LogCaptureFixture) -> None:
    character_set, name = NAMES[case]
    expected = dict.fromkeys((PATIENT_NAME, STUDY_DESCRIPTION), padded(name))
    expected[CHARACTER_SET] = padded(character_set)
    for instance in pet.segmented.aligned.loaded.selection.functional.instances:
        named(instance.path, character_set, name)
    context = open_context(pet, WritePolicy(), PROVENANCE)
    segmentation = write_segmentation(context)
    assert segmentation is not None
    report = encoded(ResultKind.SR, write_report(context, segmentation), context.source)
    check_report(report.dataset, segmentation, context)
    segments = encoded(ResultKind.SEG, segmentation, context.source)
    check_segmentation(segments.dataset, context)
    assert stored(report.content) == stored(segments.content) == expected
    assert "ller" not in caplog.text and "Yamada" not in caplog.text


def test_every_result_and_its_notice_has_the_bytes(pet: Quantified, tmp_path: Path) -> None:
    for instance in pet.segmented.aligned.loaded.selection.functional.instances:
        named(instance.path, *NAMES["Japanese, ISO 2022 IR 13"])
    results = write_results(pet, WritePolicy(rtstruct=True), PROVENANCE).results
    report = results[1]
    path = tmp_path / "report.dcm"
    path.write_bytes(report.content)
    keywords = ("SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    uids = [str(report.dataset[keyword].value) for keyword in keywords]
    standing = StandingResult(SupersededReport("1.2", *uids, 1, "1.3", False), path)
    notices = write_withdrawal(standing, "a gap", WritePolicy(), PROVENANCE)
    character_set, name = map(padded, NAMES["Japanese, ISO 2022 IR 13"])
    expected = {PATIENT_NAME: name, STUDY_DESCRIPTION: name, CHARACTER_SET: character_set}
    assert [stored(result.content) for result in (*results, *notices)] == [expected] * 6


def test_texts_in_ascii_are_written_as_before(pet: Quantified) -> None:
    context = open_context(pet, WritePolicy(), PROVENANCE)
    report = write_report(context, None)
    assert encoded(ResultKind.SR, report, context.source).content == sources.as_bytes(report)
