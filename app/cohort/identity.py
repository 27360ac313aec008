"""Pseudonyms, the hashes by which two records of one person are recognised, and paths without names."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.cohort.manifest import CohortManifest
from app.cohort.source import FoundPatient
from app.errors import MisconfiguredError
from app.files.durable import write_durably

ASSIGNMENT_FILE = "assignment.json"
"""Study Instance UID to pseudonym, of every study ever seen: ids stay when a build was interrupted."""

SALT_FILE = "identity.salt"
"""Without it nobody can guess a person from a hash: leave it out when you pass a cohort on."""

LAST_NUMBER = 9999
Assignment = dict[str, dict[str, str]]
"""For each centre: Study Instance UID to pseudonym."""

WITHHELD = "(withheld)"
KEY_COLUMNS = ("id", "patient_id", "issuer")
UID = re.compile(r"\d+(?:\.\d+){4,}")
PLAIN_WORDS = frozenset({
    "case", "copy", "ct", "dcm", "final", "ga", "gz", "label", "labels", "lesion", "lesions", "lu", "mask",
    "masks", "nifti", "nii", "nm", "pet", "psma", "pt", "reader", "roi", "rtstruct", "seg", "segmentation",
    "spect", "suv", "truth", "tumor", "tumour",
})  # fmt: skip
"""Words that are shown of a stray file's name, with UIDs and one number of at most two digits."""


def read_assignment(cohort: Path, manifest: CohortManifest) -> Assignment:
    """Known studies of each centre with their patients' pseudonyms.

    Raises:
        MisconfiguredError: the file is damaged.
    """
    known: Assignment = {centre: {} for centre in manifest.centres}
    for patient in manifest.patients:
        known[patient.centre].update({scan.study_instance_uid: patient.id for scan in patient.scans})
    path = cohort / ASSIGNMENT_FILE
    if path.is_file():
        try:
            for centre, studies in json.loads(path.read_text(encoding="utf-8")).items():
                known.setdefault(centre, {}).update(studies)
        except (ValueError, AttributeError, TypeError) as error:
            raise MisconfiguredError(f"{path}: damaged; restore it, or build a new cohort") from error
    return known


def write_assignment(cohort: Path, known: Assignment) -> None:
    """Keep the pseudonyms, before any patient is built."""
    write_durably(cohort / ASSIGNMENT_FILE, json.dumps(known, indent=0, sort_keys=True).encode())


def assign(patients: Sequence[FoundPatient], centre: str, known: dict[str, str]) -> list[str]:
    """A pseudonym for each patient, in their order: the old one, or the centre's next number.

    No pseudonym is given twice: when two persons shared a Patient ID and no longer do, the first keeps the
    pseudonym and the other gets a new one.

    Args:
        patients: of the centre, in order of acquisition.
        centre: begins the pseudonym.
        known: the centre's studies; extended by those that are new, corrected for who got another pseudonym.

    Raises:
        MisconfiguredError: more than 10000 patients in a centre.
    """
    following = 1 + max((int(name.removeprefix(centre)) for name in known.values()), default=-1)
    taken: set[str] = set()
    names = []
    for patient in patients:
        uids = [study.study_instance_uid for study in patient.studies]
        name = next((known[uid] for uid in uids if uid in known and known[uid] not in taken), None)
        if name is None:
            if following > LAST_NUMBER:
                raise MisconfiguredError(f"centre {centre} has more than {LAST_NUMBER + 1} patients")
            name, following = f"{centre}{following:04d}", following + 1
        known.update({uid: name for uid in uids if uid not in known or known[uid] in taken})
        taken.add(name)
        names.append(name)
    return names


def names_in_table(persons: Sequence[tuple[str, FoundPatient]]) -> list[tuple[str, ...]]:
    """What ``truth.csv`` may call each person, so that no row is two persons'.

    The Patient ID, unless another person has it under another issuer; the pseudonym, unless it is also
    a Patient ID, as in a clinic's own numbering.
    """
    ids = Counter(found.patient.patient_id for _, found in persons)
    names = []
    for pseudonym, found in persons:
        own = found.patient.patient_id
        names.append((*([own] if ids[own] == 1 else []), *([] if pseudonym in ids else [pseudonym])))
    return names


def read_salt(cohort: Path) -> bytes:
    """The cohort's secret for hashing persons, made on first use, readable by its owner alone."""
    path = cohort / SALT_FILE
    if not path.is_file():
        _write_private(path, secrets.token_hex(32).encode())
    return path.read_bytes()


def person_hash(patient_id: str, birth_date: str, salt: bytes) -> str:
    """A slow keyed hash of Patient ID and birth date, so that guessing IDs takes years even with the salt."""
    spelled = f"{patient_id.strip().casefold()}\n{birth_date}".encode()
    return hashlib.scrypt(spelled, salt=salt, n=2**14, r=8, p=1, dklen=24).hex()


def write_key(path: Path, cohort: Path, patients: Iterable[tuple[str, FoundPatient]]) -> None:
    """The table from pseudonym to Patient ID; rows of other patients stay.

    Raises:
        MisconfiguredError: see :func:`check_key`.
    """
    rows = check_key(path, cohort)
    rows.update({name: (each.patient.patient_id, each.patient.issuer) for name, each in patients})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(KEY_COLUMNS)
    writer.writerows([name, *row] for name, row in sorted(rows.items()))
    _write_private(path, text.getvalue().encode())


def check_key(path: Path, cohort: Path) -> dict[str, tuple[str, str]]:
    """The key's rows, by pseudonym; nothing is written.

    Raises:
        MisconfiguredError: the file would lie within the cohort, which is passed on; its folder is not there
            or can't be written to; or there is a file that is no key, which would be lost.
    """
    if path.resolve().is_relative_to(cohort.resolve()):
        raise MisconfiguredError(f"{path}: the key must not lie in the cohort; keep it apart from it")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise MisconfiguredError(f"{path}: the key's folder is not there, or can't be written to")
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError):
        header, rows = [], []
    if tuple(header) != KEY_COLUMNS:
        expected = f"a key has the columns {','.join(KEY_COLUMNS)}"
        raise MisconfiguredError(f"{path}: is there and is no key, {expected}; give another file")
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == len(KEY_COLUMNS)}


def _write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, mode 0600 from the first byte."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def path_without_person(path: Path, root: Path, patient: FoundPatient) -> str:
    """``path`` below ``root``, with every part withheld that spells the patient's ID or name."""
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return "/".join(WITHHELD if _identifies(part, patient) else part for part in relative.parts)


def stray_file(path: Path, root: Path, persons: Iterable[tuple[str, FoundPatient]]) -> tuple[str, str]:
    """What may be shown of a file that belongs to no scan, and the pseudonym of the person it is named after.

    That person may not be in the source, so only what can't be a name or an ID is shown.
    """
    known, parts = list(persons), path.relative_to(root).parts
    if all(found.is_simulated for _, found in known):
        return "/".join(parts), ""
    whose = {name for name, found in known if any(_identifies(part, found) for part in parts)}
    plain = [_is_plain(part) and not any(_identifies(part, found) for _, found in known) for part in parts]
    shown = "/".join(part if is_plain else WITHHELD for part, is_plain in zip(parts, plain, strict=True))
    return shown, whose.pop() if len(whose) == 1 else ""


def _is_plain(part: str) -> bool:
    words = re.findall(r"[^\W\d_]+|\d+", UID.sub("", part.casefold()))
    others = [word for word in words if word not in PLAIN_WORDS]
    return not others or (len(others) == 1 and others[0].isdigit() and len(others[0]) <= 2)


def folder_without_person(paths: Iterable[Path], root: Path, patient: FoundPatient) -> str:
    """The deepest folder that holds all files and identifies nobody below ``root``; absolute."""
    common = Path(os.path.commonpath([path.parent for path in paths]))
    relative = common.relative_to(root) if common.is_relative_to(root) else Path()
    folder = root
    for part in relative.parts:
        if _identifies(part, patient):
            break
        folder /= part
    return str(folder.resolve())


def _identifies(part: str, patient: FoundPatient) -> bool:
    if patient.is_simulated:
        return False
    words = set(re.findall(r"[^\W_]+", part.casefold()))
    identifier = patient.patient.patient_id.casefold()
    names = {word for word in re.findall(r"[^\W_]+", patient.name.casefold()) if len(word) > 1}
    spelled = len(identifier) > 2 and identifier in part.casefold()
    return spelled or identifier in words or bool(words & names)
