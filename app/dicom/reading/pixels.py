"""Stored pixel values of a series, in the order of its grid, with each slice's own rescale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.dicom import header_values as header
from app.dicom.dicom_file import read_with_pixels
from app.dicom.reading import compression, padding
from app.dicom.reading.compression import (
    JPEG_LS,
    DecoderDiedError,
    IsolatedDecoder,
    loss_in_stream,
    refuse_larger_streams,
    widest_sample_bits,
)
from app.dicom.reading.enhanced import classic_frames
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.screening import CT_IMAGE
from app.domain.stack.geometry import Stack, stack_series
from app.domain.study import Series
from app.errors import UnusableStudyError
from app.imaging.slices import slice_by_slice

Found = TypeVar("Found")

MOST_VOXELS = 1 << 29
"""2 GiB as float32: four times the largest CT of a whole body. More is a header that lies."""

UNCOMPRESSED = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip


HEADERLESS = "nothing: the file is headerless (PS3.10 7.1), so how its pixels are compressed is unknown"


@dataclass(frozen=True, eq=False)
class SliceStack:
    """A series read in full.

    Attributes:
        stack: its grid.
        stored: ``(z, y, x)`` stored values, of the type that the files have (the widest, if they differ) or
            that was asked for; 0 outside the image where 0 is no activity: in a PET and a SPECT.
        headers: for each z its data set, without pixels; one repeated for a multi-frame.
        sop_instance_uids, frame_numbers: for each z where it came from; frame numbers count from 1.
        outside: for each z ``(y, x)``, what is padding and no image; ``None`` when nothing is.
    """

    stack: Stack
    stored: NDArray[Any]
    headers: tuple[Dataset, ...]
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    outside: tuple[NDArray[np.bool_] | None, ...]


def unusable(
    series: Series, code: RefusalCode, attribute: str, found: str, expected: str
) -> UnusableStudyError:
    """The error that refuses a series."""
    return UnusableStudyError(series.reason(code, attribute, found, expected))


def settled(found: Found | Reason, series: Series) -> Found:
    """What was found, unless it is a reason.

    Raises:
        UnusableStudyError: with that reason, which then is about ``series``.
    """
    if isinstance(found, Reason):
        raise UnusableStudyError(replace(found, series_instance_uid=series.series_instance_uid))
    return found


def read_stack(series: Series, kind: type[np.float32] | None = None) -> SliceStack:
    """Every slice of a series; its stored values as ``kind``, or else as the files have them.

    Raises:
        UnusableStudyError: geometry, transfer syntax or pixel data can't be used.
    """
    stack = settled(stack_series(series), series)
    if math.prod(stack.grid.shape) > MOST_VOXELS:
        code, expected = RefusalCode.GEOMETRY_INCONSISTENT, f"{MOST_VOXELS} voxels or fewer"
        raise unusable(series, code, "Rows", f"{stack.grid.shape}", expected)
    with header.tolerant(), IsolatedDecoder() as decoder:
        if series.instances[0].number_of_frames > 1:
            slices = _multi_frame(series, stack, decoder)
            return slices if kind is None else replace(slices, stored=slices.stored.astype(kind))
        return _single_frames(series, stack, decoder, kind)


def _single_frames(
    series: Series, stack: Stack, decoder: IsolatedDecoder, kind: type[np.float32] | None
) -> SliceStack:
    ordered = [series.instances[index] for index in stack.order]
    planes: NDArray[Any] = np.empty(0)
    headers, padded = [], []
    files: dict[Path, tuple[tuple[Dataset, ...], NDArray[Any]]] = {}
    for z, instance in enumerate(ordered):
        if instance.frame_number is None:
            dataset, stored = _stored(series, instance.path, stack.grid.shape[1:], decoder)
        else:
            if instance.path not in files:
                files[instance.path] = _frames(series, instance.path, stack.grid.shape[1:], decoder)
            dataset, stored = (of_frame[instance.frame_number - 1] for of_frame in files[instance.path])
        plane, outside = _without_padding(series, dataset, stored)
        if z == 0:
            planes = np.empty((len(ordered), *plane.shape), plane.dtype if kind is None else kind)
        elif kind is None:  # a type that holds every slice: the first one alone must not decide
            planes = planes.astype(np.result_type(planes, plane), copy=False)
        planes[z] = plane
        headers.append(dataset)
        padded.append(outside)
    uids = tuple(instance.sop_instance_uid for instance in ordered)
    numbers = tuple(instance.frame_number or 1 for instance in ordered)
    return SliceStack(stack, planes, tuple(headers), uids, numbers, tuple(padded))


def _frames(
    series: Series, path: Path, plane: tuple[int, ...], decoder: IsolatedDecoder
) -> tuple[tuple[Dataset, ...], NDArray[Any]]:
    """Each frame of an Enhanced PET or CT as a classic data set without pixels, and its stored values."""
    dataset, stored = _stored(series, path, plane, decoder, every_frame=True)
    return classic_frames(dataset), stored.reshape(-1, *plane)


def _multi_frame(series: Series, stack: Stack, decoder: IsolatedDecoder) -> SliceStack:
    instance = series.instances[0]
    dataset, stored = _stored(series, instance.path, stack.grid.shape, decoder)
    frames, outside = _without_padding(series, dataset, stored)
    order = np.array(stack.order)
    slices = len(order)
    numbers = tuple(int(frame) + 1 for frame in order)
    uids = (instance.sop_instance_uid,) * slices
    padded = (None,) * slices if outside is None else tuple(outside[order])
    return SliceStack(stack, frames[order], (dataset,) * slices, uids, numbers, padded)


def _stored(
    series: Series, path: Path, shape: tuple[int, ...], decoder: IsolatedDecoder, every_frame: bool = False
) -> tuple[Dataset, NDArray[Any]]:
    """Data set without pixels, and its pixels as ``shape``; or as many such as it has frames, used or not."""
    try:
        dataset = read_with_pixels(path)
    except header.READ_ERRORS as error:
        found, expected = type(error).__name__, "a readable DICOM file"
        raise unusable(series, RefusalCode.UNREADABLE, "", found, expected) from error
    _refuse_undecodable(series, dataset)
    frames = header.whole(dataset, "NumberOfFrames") or 1
    shape = (frames, *shape) if every_frame and frames > 1 else shape
    missing = RefusalCode.PIXEL_DATA_MISSING
    if "PixelData" not in dataset:
        raise unusable(series, missing, "PixelData", "nothing", "pixels in every image")
    try:
        _refuse_wide_samples(series, dataset)
        _refuse_lost_values(series, dataset)
        pixels = decoded(dataset, path, decoder)
    except DecoderDiedError as error:
        found, expected = f"pixel data can't be decoded: {error}", f"{shape} decodable values"
        raise unusable(series, RefusalCode.UNREADABLE, "PixelData", found, expected) from error
    except (*header.READ_ERRORS, RuntimeError) as error:
        found, expected = f"damaged or truncated pixels ({type(error).__name__})", f"{shape} decodable values"
        raise unusable(series, missing, "PixelData", found, expected) from error
    if pixels.shape != shape:
        found, expected = f"pixels of shape {pixels.shape}", f"{shape}, one sample each"
        raise unusable(series, missing, "PixelData", found, expected)
    del dataset.PixelData
    return dataset, pixels


def _without_padding(
    series: Series, dataset: Dataset, pixels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Stored values, those that are no image 0 in a PET or SPECT; and which of them these are."""
    is_ct = series.sop_class_uid == CT_IMAGE
    outside = settled(padding.outside(dataset, pixels, is_ct), series)
    if outside is not None and not is_ct:
        pixels = np.where(outside, pixels.dtype.type(0), pixels)
    return pixels, outside


def decoded(dataset: Dataset, path: Path, decoder: IsolatedDecoder) -> NDArray[Any]:
    """The pixels; of JPEG-LS, whose decoder may crash, from a child process."""
    refuse_larger_streams(dataset)
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if syntax in JPEG_LS:
        return decoder.decode(path)
    if syntax in UNCOMPRESSED and padding.has_spare_bits(dataset):
        return padding.with_spare_bits(dataset)
    is_full = syntax in UNCOMPRESSED and header.whole(dataset, "BitsStored") == 16
    plain = padding.plain_samples(dataset) if is_full else None
    return np.asarray(dataset.pixel_array) if plain is None else plain


def scaled(stored: NDArray[Any], factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stored values ``(z, y, x)`` times a factor for each z, in one pass over them."""
    array = np.empty(stored.shape, dtype=np.float32)

    def scale(z: int) -> None:
        np.multiply(stored[z], factors[z], out=array[z], dtype=np.float32, casting="same_kind")

    slice_by_slice(scale, len(array))
    return array


def _refuse_undecodable(series: Series, dataset: Dataset) -> None:
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax in UNCOMPRESSED:
        return
    compression.register()
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        usable = False
    if not usable:
        expected = "an uncompressed image, or a compression with a decoder installed here"
        code = RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED
        raise unusable(series, code, "TransferSyntaxUID", syntax or HEADERLESS, expected)


def _refuse_wide_samples(series: Series, dataset: Dataset) -> None:
    """A decoder would cut them to Bits Allocated."""
    allocated, in_stream = int(dataset.BitsAllocated), widest_sample_bits(dataset)
    if in_stream is not None and in_stream > allocated:
        found = f"{in_stream} bits a sample in the stream"
        expected = f"{allocated} or fewer, as Bits Allocated says"
        raise unusable(series, RefusalCode.PIXEL_DATA_MISSING, "PixelData", found, expected)


def _refuse_lost_values(series: Series, dataset: Dataset) -> None:
    """A stream with loss under a header that doesn't say so; a CT is not measured on."""
    loss = "" if series.sop_class_uid == CT_IMAGE else loss_in_stream(dataset)
    if loss:
        found, expected = f"{loss}, though LossyImageCompression is not 01", "measured values, without loss"
        raise unusable(series, RefusalCode.LOSSY_COMPRESSION, "PixelData", found, expected)


def rescale_factors(series: Series, slices: SliceStack) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rescale Slope and Intercept of every z, each of shape ``(z,)``.

    A slice of zeros that was scaled to its maximum has slope 0: it takes another's, and stays as it is. Not
    in a CT, where 0 is water.

    Raises:
        UnusableStudyError: a slice has no slope, or one that is not positive.
    """
    is_ct = series.sop_class_uid == CT_IMAGE
    slopes: list[float] = []
    intercepts: list[float] = []
    usual = next((slope for one in slices.headers if (slope := header.number(one, "RescaleSlope"))), None)
    for dataset, plane in zip(slices.headers, slices.stored, strict=True):
        slope, intercept = header.number(dataset, "RescaleSlope"), header.number(dataset, "RescaleIntercept")
        if slope == 0.0 and intercept == 0.0 and not is_ct and not plane.any():
            slope = usual
        if slope is None or intercept is None or slope <= 0.0:
            found = f"slope {slope}, intercept {intercept}"
            expected = "a positive slope, and an intercept, on every image"
            raise unusable(series, RefusalCode.RESCALE_MISSING, "RescaleSlope", found, expected)
        slopes.append(slope)
        intercepts.append(intercept)
    return np.array(slopes), np.array(intercepts)
