"""Patient and study texts in the results, byte for byte as the source has them.

pydicom decodes text and encodes it again, which loses what it can't decode: kana in ISO 2022 IR 13 become
question marks, and so do bytes that the source's Specific Character Set does not hold. A name that was
changed is another patient's to a PACS. Our own texts are ASCII, which every character set holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread
from pydicom.dataelem import RawDataElement

from app.dicom.dicom_file import read_header
from app.dicom.header_values import tolerant
from app.dicom.results.context import decoded_header
from app.dicom.results.encoding import file_bytes, written_by_pydicom

TEXT = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""Value representations that Specific Character Set is about (PS3.5 6.1.2.3)."""


def file_of(result: Dataset, source: Path) -> bytes:
    """The file of a result; texts that it has from ``source`` are its bytes."""
    with tolerant():
        kept = tuple(_kept(result, source))
        meant = [result[element.tag] for element in kept]
        try:
            for element in meant:
                result[element.tag] = DataElement(element.tag, element.VR, "-")
            content = file_bytes(result)
        finally:
            for element in meant:
                result[element.tag] = element
        if not kept:
            return content
        read = dcmread(BytesIO(content))
        for raw in kept:
            read[raw.tag] = raw
        return written_by_pydicom(read)


def _kept(result: Dataset, source: Path) -> Iterator[RawDataElement]:
    """What was copied and would not be written as it was."""
    decoded, undecoded = decoded_header(source), read_header(source)
    for tag in result.keys() & undecoded.keys():
        vr, raw = result[tag].VR, undecoded.get_item(tag)
        if vr not in TEXT or not isinstance(raw, RawDataElement) or result[tag].value != decoded[tag].value:
            continue
        value = (raw.value or b"").rstrip(b" \0")
        if value != str(result[tag].value or "").encode("ascii", "replace"):
            padded = value + b" " * (len(value) % 2)
            yield RawDataElement(tag, vr, len(padded), padded, 0, False, True)
