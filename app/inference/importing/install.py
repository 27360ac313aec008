"""How models come into the models' folder: zip files with suspicion, packages of other nodes, whole folders.

A zip is packed so that the same files give the same bytes. A model's folder takes its place whole: it has
another name until every file is written and flushed. A package is one zip with the card and every file that
the card lists, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.errors import MisconfiguredError
from app.files.durable import make_folder, sync_folder, sync_tree
from app.inference.models.card import (
    CARD_FILE,
    DATASET_FILE,
    PLANS_FILE,
    FileName,
    ModelCard,
    read_card,
    write_card,
)
from app.inference.models.plans_check import check_plans, check_weights, empty_network, trimmed_dataset
from app.inference.models.store import ModelStore, sha256_of
from app.inference.running.segmenter import refuse_other_input

CHUNK_BYTES = 1 << 20
CARD_BYTES, JSON_BYTES = 4 << 20, 64 << 20

ENTRIES = 20_000
"""More files than nnU-Net exports, with every validation image of a large cohort."""

TOTAL_BYTES = 64 << 30
"""Five folds of nnU-Net's largest preset with their optimisers stay below 10 GB."""

RATIO, RATIO_FROM_BYTES = 200, 16 << 20
"""Weights hardly compress at all; an untrained network's zeros compress by up to 1000, but they are few."""

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a zip can hold: the day of packing would make every package another file."""


def member_names(path: Path) -> tuple[str, ...]:
    """Every file's name in a zip in which nothing is out of the ordinary.

    Raises:
        MisconfiguredError: no zip; a name that leads elsewhere, a link, an encrypted file, a name that comes
            twice, or sizes that no model has (a zip bomb).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise MisconfiguredError(f"{path}: can't be read as a zip file ({type(error).__name__})") from error
    for entry in entries:
        wrong = _wrong_with(entry)
        if wrong:
            raise MisconfiguredError(f"{path}: refused, {entry.filename!r} {wrong}; no model has that")
    names = [entry.filename for entry in entries]
    _refuse_amounts(path, entries)
    return tuple(name for name in names if not name.endswith("/"))


def unpack(path: Path, members: Mapping[str, Path]) -> None:
    """Write some members to the places given, each no longer than the zip declares.

    Raises:
        MisconfiguredError: the zip is damaged or can't be read, or the disk has no room.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, target in members.items():
                _unpack_one(archive, archive.getinfo(name), target)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise MisconfiguredError(f"{path}: the zip file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise MisconfiguredError(f"{path}: can't be unpacked ({error.strerror})") from error


def pack(files: Sequence[tuple[str, Path]], out: Path) -> None:
    """A zip of ``(name, file)``, byte for byte the same on every machine and day.

    Nothing is compressed: weights hardly shrink, and each release of zlib writes other bytes.
    """
    part = out.with_name(f".{out.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, source in sorted(files):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.create_system = 3  # Unix, on whichever system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(entry, "w") as member:
                shutil.copyfileobj(content, member, CHUNK_BYTES)
    part.replace(out)


def _wrong_with(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry's name or kind, in words; empty when nothing is."""
    name = entry.filename
    path = PurePosixPath(name)
    # ``orig_filename``: Python cuts a name at NUL and turns backslashes, other programs don't
    strange = any(char in entry.orig_filename for char in "\\\0:")
    if path.is_absolute() or ".." in path.parts or not path.parts or strange:
        return "leads out of its folder"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > RATIO_FROM_BYTES and entry.file_size > RATIO * max(1, entry.compress_size):
        return f"would grow {entry.file_size // max(1, entry.compress_size)} times in unpacking"
    return ""


def _refuse_amounts(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    if len(entries) > ENTRIES or total > TOTAL_BYTES:
        raise MisconfiguredError(
            f"{path}: refused, {len(entries)} files of {total / 1e9:.1f} GB together; "
            f"a model has at most {ENTRIES} files and {TOTAL_BYTES / 1e9:.0f} GB"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise MisconfiguredError(
            f"{path}: refused, a name comes twice; which of the two was meant is unknown"
        )


def _unpack_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if entry.file_size > free:
        raise MisconfiguredError(
            f"{entry.filename} needs {entry.file_size / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free"
        )
    left = entry.file_size
    with archive.open(entry) as member, target.open("xb") as file:
        while chunk := member.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise MisconfiguredError(f"{entry.filename} is longer than the zip says; refused")
            file.write(chunk)


STAGING = ".importing"
"""Below the models' folder, where a rename is enough; one level deeper than a model, so that none is seen."""


def refuse_taken_id(models: Path, model_id: str, replace: bool) -> None:
    """Before any work is done.

    Raises:
        MisconfiguredError: the id is no folder's name, or is taken and not to be replaced.
    """
    try:
        TypeAdapter(FileName).validate_python(model_id)
    except ValidationError as error:
        raise MisconfiguredError(
            f"{model_id!r} can't be a model's id; use letters, digits, '.', '_' and '-'"
        ) from error
    if (models / model_id).exists() and not replace:
        raise MisconfiguredError(
            f"{models / model_id} exists; give another --id, or --replace to put the new model in its place"
        )


@contextmanager
def new_model(models: Path, model_id: str, replace: bool) -> Iterator[Path]:
    """An empty folder, called ``model_id``, that becomes ``models/<model_id>`` when the block ends well.

    After an exception nothing of it remains. With ``replace`` there is an instant between two renames in
    which neither model is there; a node that is running keeps the one it has loaded.

    Raises:
        MisconfiguredError: as :func:`refuse_taken_id`, or the folder can't be written to.
    """
    refuse_taken_id(models, model_id, replace)
    work = models / STAGING / uuid.uuid4().hex
    staged = work / model_id
    try:
        with _writing_to(models):
            make_folder(models)
            staged.mkdir(parents=True)
        yield staged  # what fails in there has its own words: it reads files from elsewhere
        refuse_taken_id(models, model_id, replace)  # another import may have been quicker
        with _writing_to(models):
            sync_tree(staged)
            _take_place(staged, models / model_id, work / "replaced")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # another import is under way there
            (models / STAGING).rmdir()


@contextmanager
def _writing_to(models: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MisconfiguredError(f"{models}: can't be written to ({error.strerror})") from error


def _take_place(staged: Path, final: Path, aside: Path) -> None:
    """The new folder where the old one was, which comes back if that fails."""
    if final.exists():
        final.rename(aside)
    try:
        staged.rename(final)
    except OSError:
        if aside.exists():
            aside.rename(final)
        raise
    sync_folder(final.parent)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file that nobody has looked at.

    Raises:
        MisconfiguredError: too long, no JSON object, or can't be read.
    """
    try:
        if path.stat().st_size > JSON_BYTES:
            raise MisconfiguredError(
                f"{path.name}: more than {JSON_BYTES >> 20} MiB; no {path.name} is as long"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MisconfiguredError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MisconfiguredError(f"{path.name}: not readable as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise MisconfiguredError(f"{path.name}: expected an object, found {type(content).__name__}")
    return content


def export_package(store: ModelStore, model_id: str, out: Path) -> ModelCard:
    """Write the package of a model, verified first; the same model gives the same bytes.

    Raises:
        MisconfiguredError: no such model, a file differs from its card, or ``out`` can't be written.
    """
    model = store.verify(store.card(model_id))
    names = (CARD_FILE, *model.card.files)
    try:
        pack([(f"{model_id}/{name}", model.folder / name) for name in names], out)
    except OSError as error:
        raise MisconfiguredError(f"{out}: can't be written ({error.strerror})") from error
    return model.card


def package_id(path: Path) -> str:
    """The id of the model in a package of :func:`export_package`; empty when the zip is none.

    Raises:
        MisconfiguredError: as :func:`~app.inference.importing.install.member_names`.
    """
    names = [PurePosixPath(name) for name in member_names(path)]
    cards = [name for name in names if name.name == CARD_FILE and len(name.parts) == 2]
    return cards[0].parts[0] if len(cards) == 1 else ""


def import_package(path: Path, folder: Path) -> ModelCard:
    """Unpack a package into the empty ``folder``, which has the model's id as its name; every file verified.

    Of dataset.json only what inference needs is kept, as after a training's import.

    Raises:
        MisconfiguredError: a file is missing, additional, or not what the card says, or the parts do not fit.
    """
    members = member_names(path)
    names = {PurePosixPath(name).name: name for name in members}
    unpack(path, {names[CARD_FILE]: folder / CARD_FILE})
    if (folder / CARD_FILE).stat().st_size > CARD_BYTES:
        raise MisconfiguredError(f"{path}: its card is longer than {CARD_BYTES >> 20} MiB")
    card = read_card(folder)
    expected = {f"{card.id}/{name}" for name in (CARD_FILE, *card.files)}
    if set(members) != expected:
        different = ", ".join(sorted(set(members) ^ expected))
        raise MisconfiguredError(f"{path}: holds other files than its card lists: {different}")
    unpack(path, {f"{card.id}/{name}": folder / name for name in card.files})
    ModelStore(folder.parent).verify(card)
    refuse_other_input(card)
    plans, dataset = read_json(folder / PLANS_FILE), read_json(folder / DATASET_FILE)
    check_plans(plans, dataset, card.inference.configuration, card.role)
    network = empty_network(plans, dataset, card.inference.configuration)
    for name in card.weights:
        check_weights(network, folder / name)
    return _without_case_list(card, dataset, folder)


def _without_case_list(card: ModelCard, dataset: dict[str, Any], folder: Path) -> ModelCard:
    """Trim dataset.json in ``folder``, with its new SHA-256 in the card; a trimmed one stays as it is."""
    kept = trimmed_dataset(dataset)
    if kept == dataset:
        return card
    path = folder / DATASET_FILE
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    trimmed = card.model_copy(update={"files": {**card.files, DATASET_FILE: sha256_of(path)}})
    write_card(trimmed, folder)
    return trimmed
