"""An image as nnU-Net's network wants it, and the network's outputs as labels on the image's grid.

Equal to what nnU-Net 2.8's ``DefaultPreprocessor`` does, and on the way back its ``export_prediction``: axes
put in the plans' order, cropped to what is not zero, normalised by nnU-Net's own schemes, resampled
(:mod:`app.inference.running.zoom`). One channel is in work at a time, and outputs are never held on the
whole grid of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.inference.models.plans_check import STOCK_RESAMPLING, refuse_other_resampling
from app.inference.running.tiles import maybe_body
from app.inference.running.zoom import Zoom, zoom_between

if TYPE_CHECKING:
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

SLAB_SLICES = 16
"""Slices of the image that are labelled at one time."""

BY_VOXEL = frozenset({"CTNormalization", "NoNormalization"})
"""Schemes that look at each voxel by itself."""

Shape = tuple[int, ...]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the network's grid.

    Attributes:
        image: ``(c, z, y, x)`` float32, normalised.
        body: ``(z, y, x)`` of the cropped image before resampling: where something may be.
        spacing_mm: of ``body``, along ``(z, y, x)``.
        box: what the crop left of the image.
        whole: shape of the image, its axes in the plans' order as everything here.
    """

    image: torch.Tensor
    body: NDArray[np.bool_]
    spacing_mm: tuple[float, ...]
    box: Box
    whole: Shape


class Preprocessing:
    """What a model's plans say about the way from an image to its network and back."""

    def __init__(self, plans: PlansManager, configuration: ConfigurationManager) -> None:
        """Plans that are not as nnU-Net's planners write them are refused.

        Raises:
            MisconfiguredError: they resample in another way.
        """
        refuse_other_resampling(configuration.configuration)
        self._plans = plans
        self._configuration = configuration

    def prepare(self, channels: NDArray[np.float32], spacing_mm: Sequence[float]) -> Prepared:
        """``(c, z, y, x)`` as the network wants it; ``channels`` are not changed."""
        import torch

        order = [int(axis) for axis in self._plans.transpose_forward]
        moved = channels.transpose(0, *(axis + 1 for axis in order))
        box = _not_zero(moved)
        cropped = moved[(slice(None), *box)]
        spacing = tuple(float(spacing_mm[axis]) for axis in order)
        shape = self._network_shape(cropped.shape[1:], spacing)
        image = torch.empty((len(channels), *shape))
        for number in range(len(channels)):
            image[number] = self._channel(cropped, number, shape, spacing)
        return Prepared(image, maybe_body(cropped), spacing, box, moved.shape[1:])

    def labels(self, differences: torch.Tensor, prepared: Prepared) -> NDArray[np.unsignedinteger[Any]]:
        """The label of each voxel, in the image's own order of axes.

        Args:
            differences: ``(labels - 1, z, y, x)`` on the network's grid: by how much each label's output
                exceeds that for background. Interpolation is linear, so the largest output after it is the
                largest difference, if that is above 0.
            prepared: as :meth:`prepare` gave it.
        """
        kind = np.uint8 if len(differences) < 255 else np.uint16
        labels = np.zeros(prepared.whole, dtype=kind)
        cropped = labels[prepared.box]
        wanted = self._target_spacing(prepared.spacing_mm)
        settings = self._configuration.configuration
        if settings["resampling_fn_probabilities"] == STOCK_RESAMPLING:
            zoom = zoom_between(
                tuple(differences.shape[1:]), cropped.shape, wanted, prepared.spacing_mm,
                settings["resampling_fn_probabilities_kwargs"],
            )  # fmt: skip
            _label(cropped, differences, zoom)
        else:
            zoomed = self._configuration.resampling_fn_probabilities(
                differences, cropped.shape, wanted, prepared.spacing_mm
            )
            cropped[...] = _largest(np.asarray(zoomed))
        return labels.transpose([int(axis) for axis in self._plans.transpose_backward])

    def _target_spacing(self, spacing: tuple[float, ...]) -> tuple[float, ...]:
        """A two-dimensional network leaves the distance of slices as it is."""
        target = tuple(float(length) for length in self._configuration.spacing)
        return (spacing[0], *target) if len(target) < len(spacing) else target

    def _network_shape(self, shape: Shape, spacing: tuple[float, ...]) -> Shape:
        from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

        found = compute_new_shape(shape, spacing, self._target_spacing(spacing))
        return tuple(int(length) for length in found)

    def _channel(
        self, cropped: NDArray[np.float32], number: int, shape: Shape, spacing: tuple[float, ...]
    ) -> Any:
        """One channel, normalised and on the network's grid."""
        import torch

        target = self._target_spacing(spacing)
        settings = self._configuration.configuration
        if settings["resampling_fn_data"] != STOCK_RESAMPLING:
            whole = self._normalised(cropped, number, slice(None))
            return torch.as_tensor(
                self._configuration.resampling_fn_data(whole[None], shape, spacing, target)
            )[0]
        zoom = zoom_between(cropped.shape[1:], shape, spacing, target, settings["resampling_fn_data_kwargs"])
        by_voxel = settings["normalization_schemes"][number] in BY_VOXEL
        depth = cropped.shape[1]
        thickness = SLAB_SLICES if by_voxel and zoom.takes_slabs else depth
        slabs = (slice(start, start + thickness) for start in range(0, depth, thickness))
        return zoom.apply(torch.from_numpy(self._normalised(cropped, number, slab)) for slab in slabs)

    def _normalised(self, cropped: NDArray[np.float32], number: int, slab: slice) -> NDArray[np.float32]:
        """A copy of a channel's slab, normalised by nnU-Net's scheme of that name."""
        from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
        from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes

        settings = self._configuration
        masked = bool(settings.use_mask_for_norm[number])
        intensities = self._plans.foreground_intensity_properties_per_channel[str(number)]
        name = settings.normalization_schemes[number]
        outside = None
        if masked and name not in BY_VOXEL:
            outside = np.where(create_nonzero_mask(cropped), np.int8(0), np.int8(-1))
        copy = cropped[number, slab].astype(np.float32, order="C")
        result: NDArray[np.float32] = getattr(schemes, name)(masked, intensities).run(copy, outside)
        return result


def _not_zero(channels: NDArray[np.float32]) -> Box:
    """The box that nnU-Net crops to: the holes that it fills first don't change it. All of an empty image."""
    found = np.zeros(channels.shape[1:], dtype=np.bool_)
    for channel in channels:
        found |= channel != 0
    box = []
    for axis in range(found.ndim):
        used = np.flatnonzero(found.any(axis=tuple(other for other in range(found.ndim) if other != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, found.shape[axis]))
    return tuple(box)


def _label(labels: NDArray[np.unsignedinteger[Any]], differences: torch.Tensor, zoom: Zoom) -> None:
    """Fill ``labels``: a voxel whose neighbours on the network's grid are all background is background.

    For the interpolated difference is a mean of theirs, of which none is above 0.
    """
    positive = (differences > 0).any(0).numpy()
    if not zoom.keeps_sign:
        positive[...] = True
    for start in range(0, labels.shape[0], SLAB_SLICES):
        slab = (slice(start, min(start + SLAB_SLICES, labels.shape[0])), slice(None), slice(None))
        box = _reached(slab, positive, zoom, labels.shape)
        if box is None:
            continue
        part, read = zoom.part(box)
        labels[box] = _largest(np.stack([part.apply([one[read]]).numpy() for one in differences]))


def _reached(slab: Box, positive: NDArray[np.bool_], zoom: Zoom, shape: Shape) -> Box | None:
    """The box within ``slab`` outside of which no voxel has a positive neighbour."""
    whole = tuple(slice(*part.indices(length)) for part, length in zip(slab, shape, strict=True))
    _, read = zoom.part(whole)
    near = positive[read]
    box = [whole[0]]
    for axis in (1, 2):
        used = np.flatnonzero(near.any(axis=(0, 3 - axis)))
        if not used.size:
            return None
        low, high = (read[axis].start + int(end) for end in (used[0], used[-1] + 1))
        matrix = zoom.matrices[axis]
        if matrix is not None:
            reading = np.flatnonzero((matrix[:, low:high] != 0).any(axis=1))
            if not reading.size:  # a coarse grid steps over what lies between its voxels
                return None
            low, high = int(reading[0]), int(reading[-1]) + 1
        box.append(slice(low, high))
    return tuple(box)


def _largest(differences: NDArray[np.float32]) -> NDArray[np.intp]:
    """The label of the largest difference, 0 where none is above 0; of two equal ones the first."""
    best = differences.argmax(axis=0)
    return np.where(np.take_along_axis(differences, best[None], axis=0)[0] > 0, best + 1, 0)
