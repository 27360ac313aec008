"""Whether a model's plans and data set description name only nnU-Net's own parts, and the role's channels.

nnU-Net looks up preprocessing, resampling and normalisation by the names in plans.json. A normalisation that
is not known by name, or a channel that is not the role's, would give a wrong mask without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.channels import CT_NAME, PRIOR_NAME, channels_of
from app.inference.models.network import build_network, refuse_misfit

NORMALISATIONS = {
    "CTNormalization": (
        "nnU-Net CT scheme: clipped to the training lesions' 0.5 and 99.5 percentiles, "
        "fixed mean and deviation"
    ),
    "ZScoreNormalization": "nnU-Net z-score: mean and deviation of each image, whatever it shows",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "nnU-Net rescale to 0..1: by each image's own minimum and maximum",
}
"""nnU-Net 2.8's schemes for grey values, in words for the card."""

PARTS = {
    "preprocessor_name": ("DefaultPreprocessor",),
    "resampling_fn_data": ("resample_data_or_seg_to_shape", "resample_torch_fornnunet"),
    "resampling_fn_seg": ("resample_data_or_seg_to_shape", "resample_torch_fornnunet"),
    "resampling_fn_probabilities": ("resample_data_or_seg_to_shape", "resample_torch_fornnunet"),
    "label_manager": ("LabelManager",),
}
"""What plans.json may name: nnU-Net's own parts; only the label manager is not a configuration's."""

STOCK_RESAMPLING = "resample_data_or_seg_to_shape"
"""nnU-Net's default; ours is equal to it (:mod:`app.inference.running.zoom`)."""

RESAMPLING_SETTINGS = frozenset(
    {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
)
"""Its arguments."""

SCHEME_NAMES = frozenset({"ct", "nonorm", "zscore", "rescale_to_0_1"})
"""Channel names that only choose a normalisation, and say nothing about the content."""

CONTENT_NAMES = {
    "functional": frozenset({"pet", "suv", "spect", "pt", "nm", "pet or spect", "functional", "suvbw"}),
    "ct": frozenset({"ct", "hu"}),
    "prior": frozenset({"prior", "pet lesions", "lesions", "mask", "distance", "pet prior"}),
}
DATASET_KEYS = ("channel_names", "modality", "labels", "numTraining", "file_ending")
"""All that inference needs; the rest may name patients, people and folders."""

MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError, IndexError)
"""What nnU-Net raises on plans that are none."""


def check_plans(
    plans: dict[str, Any], dataset: dict[str, Any], configuration: str, role: ModelRole
) -> tuple[str, ...]:
    """The normalisation of each channel, in words.

    Raises:
        MisconfiguredError: a name that nnU-Net's planners don't write, a cascade, or not the role's channels.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if configuration not in plans.get("configurations", {}):
        raise MisconfiguredError(
            f"plans.json has no configuration {configuration!r}, which the checkpoint names"
        )
    try:
        settings = PlansManager(plans).get_configuration(configuration).configuration
        schemes = tuple(str(scheme) for scheme in settings["normalization_schemes"])
        found = {key: plans[key] if key == "label_manager" else settings[key] for key in PARTS}
    except MALFORMED as error:
        raise MisconfiguredError(
            f"plans.json is not as nnU-Net writes it ({type(error).__name__}: {error})"
        ) from error
    _refuse_unknown_parts(found)
    refuse_other_resampling(settings)
    if settings.get("previous_stage"):
        raise MisconfiguredError(
            f"{configuration} is the second stage of a cascade, which takes another network's output; "
            "export 3d_fullres or 3d_lowres"
        )
    _refuse_other_channels(_channel_names(dataset), schemes, role)
    return tuple(NORMALISATIONS[scheme] for scheme in schemes)


def refuse_other_resampling(settings: Mapping[str, Any]) -> None:
    """nnU-Net's own resampling of grey values, and outputs by a mean of their neighbours.

    Only a mean of differences is the difference of means: a spline of higher order overshoots, and nnU-Net
    clips it to the range of each label's output.

    Args:
        settings: a configuration of plans.json.

    Raises:
        MisconfiguredError: unknown arguments, outputs treated as labels, or splines above order 1 for them.
    """
    for what in ("data", "probabilities"):
        found = settings[f"resampling_fn_{what}_kwargs"]
        stock = settings[f"resampling_fn_{what}"] == STOCK_RESAMPLING
        unknown = sorted(found.keys() - RESAMPLING_SETTINGS) if stock else []
        wrong = {name: found[name] for name in unknown}
        if found.get("is_seg", False):
            wrong["is_seg"] = True
        if stock and what == "probabilities":
            default = {"order": 3, "order_z": 0}
            orders = {name: found.get(name, value) for name, value in default.items()}
            wrong |= {name: order for name, order in orders.items() if order not in (0, 1)}
        if wrong:
            listed = ", ".join(f"{name}: {value!r}" for name, value in wrong.items())
            raise MisconfiguredError(
                f"plans.json resamples {what} with {listed}; expected is_seg: false, for probabilities order "
                "and order_z of 0 or 1, and nothing that nnU-Net 2.8 does not know; train with the plans "
                "that its planner writes"
            )


def empty_network(plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> Any:
    """The network that the plans describe, without memory: only its shapes are of interest.

    Raises:
        MisconfiguredError: the plans name unknown parts, or describe no network.
    """
    import torch

    try:
        with torch.device("meta"):
            return build_network(plans, dataset, configuration)
    except MALFORMED as error:
        raise MisconfiguredError(
            f"plans.json describes no network ({type(error).__name__}: {error})"
        ) from error


def check_weights(network: Any, file: Path) -> None:
    """Whether a file of weights is for this network.

    Raises:
        MisconfiguredError: it is of another, or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        refuse_misfit(network, load_file(str(file)))
    except (ValueError, SafetensorError) as error:
        raise MisconfiguredError(
            f"{file.name}: {error}; a trainer with a network of its own is not supported"
        ) from error


def lesion_labels(dataset: dict[str, Any], lesion_label: str) -> dict[str, int]:
    """The labels for the card, with that of the lesions called ``lesion``.

    Args:
        dataset: dataset.json.
        lesion_label: what dataset.json calls lesions; empty for ``lesion``.

    Raises:
        MisconfiguredError: no such label, or regions instead of labels.
    """
    labels = dataset.get("labels")
    plain = isinstance(labels, dict) and all(type(number) is int for number in labels.values())
    if not isinstance(labels, dict) or not plain or "regions_class_order" in dataset:
        raise MisconfiguredError(
            "dataset.json must give each label one number; regions, that overlap, are not supported"
        )
    wanted = lesion_label or "lesion"
    names = [str(name) for name, number in labels.items() if number > 0 and name != "ignore"]
    if wanted not in names:
        raise MisconfiguredError(
            f"dataset.json has the labels {', '.join(names)}, none called {wanted!r}; "
            "say which is the lesions' with --lesion-label NAME"
        )
    return {"lesion" if name == wanted else str(name): number for name, number in labels.items()}


def trimmed_dataset(dataset: dict[str, Any]) -> dict[str, Any]:
    """What of dataset.json is kept."""
    return {key: dataset[key] for key in DATASET_KEYS if key in dataset}


def _refuse_unknown_parts(found: Mapping[str, Any]) -> None:
    for key, allowed in PARTS.items():
        if found[key] not in allowed:
            raise MisconfiguredError(
                f"plans.json names {found[key]!r} as {key}, expected {' or '.join(allowed)}; "
                "only nnU-Net's own parts are run"
            )


def _channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    names: Any = dataset.get("channel_names", dataset.get("modality"))
    try:
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (KeyError, TypeError) as error:
        raise MisconfiguredError("dataset.json must name its channels 0, 1, … in channel_names") from error


def _refuse_other_channels(names: Sequence[str], schemes: Sequence[str], role: ModelRole) -> None:
    expected = channels_of(role)
    if not len(names) == len(schemes) == len(expected):
        raise MisconfiguredError(
            f"the model takes {len(names)} channels ({', '.join(names)}), {role} has {len(expected)}: "
            f"{', '.join(name for name, _ in expected)}; is --role right?"
        )
    for number, (name, scheme, (meaning, _)) in enumerate(zip(names, schemes, expected, strict=True)):
        if scheme not in NORMALISATIONS:
            raise MisconfiguredError(
                f"plans.json normalises channel {number} with {scheme!r}, expected one of "
                f"{', '.join(NORMALISATIONS)}"
            )
        content = {CT_NAME: "ct", PRIOR_NAME: "prior"}.get(meaning, "functional")
        if name.lower() not in SCHEME_NAMES | CONTENT_NAMES[content]:
            raise MisconfiguredError(
                f"dataset.json calls channel {number} {name!r}; for {role} it is the {meaning}. If it is, "
                f"write {meaning!r} there (at inference the normalisation comes from plans.json); if not, "
                "the model can't be used in this role"
            )
