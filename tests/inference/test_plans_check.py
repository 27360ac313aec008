"""Plans and data set descriptions that name, or mean, something else than nnU-Net and the role do."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.inference.models.plans_check import check_plans, empty_network, lesion_labels
from tests.inference.tiny_model import CONFIGURATION, DATASET, plans


def changed(**changes: Any) -> dict[str, Any]:
    """The tiny plans with another configuration."""
    content = plans()
    content["configurations"][CONFIGURATION].update(changes)
    return content


def test_normalisations_are_described_in_words() -> None:
    found = check_plans(
        changed(normalization_schemes=["ZScoreNormalization", "CTNormalization"]),
        DATASET,
        CONFIGURATION,
        ModelRole.M2,
    )
    assert "each image" in found[0]
    assert "0.5 and 99.5 percentiles" in found[1]


@pytest.mark.parametrize("names", [("CT", "CT"), ("SPECT", "CT"), ("suv", "noNorm"), ("zscore", "HU")])
def test_names_that_choose_a_normalisation_or_say_what_is_meant_pass(names: tuple[str, str]) -> None:
    dataset = {**DATASET, "channel_names": dict(zip("01", names, strict=True))}
    assert len(check_plans(plans(), dataset, CONFIGURATION, ModelRole.M2)) == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "CT"}}, "calls channel 0 'T1'"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "calls channel 1 'PET'"),
        ({"channel_names": {"0": "SPECT"}}, "takes 1 channels"),
        ({"channel_names": ["SPECT", "CT"]}, "must name its channels"),
        ({"channel_names": None}, "must name its channels"),
    ],
)
def test_channels_that_are_not_the_roles_are_refused(dataset: dict[str, object], message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        check_plans(plans(), {**DATASET, **dataset}, CONFIGURATION, ModelRole.M2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(normalization_schemes=["CTNormalization", "MyNormalization"]), "MyNormalization"),
        (changed(preprocessor_name="MyPreprocessor"), "MyPreprocessor"),
        (changed(resampling_fn_data="my_resampling"), "my_resampling"),
        (changed(previous_stage="3d_lowres"), "cascade"),
        (
            changed(resampling_fn_data_kwargs={"order": 3, "smooth": True}),
            "resamples data with smooth: True; expected",
        ),
        (changed(resampling_fn_data_kwargs={"is_seg": True}), "resamples data with is_seg: True"),
        (changed(resampling_fn_probabilities_kwargs={"order": 2}), "probabilities with order: 2"),
        (changed(resampling_fn_probabilities_kwargs={}), "probabilities with order: 3"),
        (
            changed(resampling_fn_probabilities_kwargs={"order": 1, "order_z": 3}),
            "probabilities with order_z: 3",
        ),
        ({**plans(), "label_manager": "MyLabels"}, "MyLabels"),
        ({**plans(), "configurations": {}}, "no configuration '3d_fullres'"),
        ({"configurations": {CONFIGURATION: {"architecture": {}}}}, "not as nnU-Net writes it"),
    ],
)
def test_plans_with_other_parts_than_nnunets_own_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        check_plans(content, DATASET, CONFIGURATION, ModelRole.M2)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"network_class_name": "torch.hub.load"}, "no network"),
        (
            {
                **plans()["configurations"][CONFIGURATION]["architecture"],
                "network_class_name": "torch.hub.load",
            },
            r"torch\.hub\.load",
        ),
        (
            {**plans()["configurations"][CONFIGURATION]["architecture"], "arch_kwargs": {"n_stages": "two"}},
            "no network",
        ),
    ],
)
def test_plans_of_no_network_are_refused(architecture: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        empty_network(changed(architecture=architecture), DATASET, CONFIGURATION)


def test_a_network_of_any_size_is_built_without_memory() -> None:
    architecture = plans()["configurations"][CONFIGURATION]["architecture"]
    architecture["arch_kwargs"]["features_per_stage"] = [60_000, 60_000]  # weights of 800 GB
    network = empty_network(changed(architecture=architecture), DATASET, CONFIGURATION)
    assert sum(weight.numel() for weight in network.parameters()) > 10**11


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "tumour": 1}, "--lesion-label NAME"),
        ({"background": 0, "lesion": [1, 2]}, "regions"),
        ({"background": 0, "lesion": True}, "regions"),
        (["lesion"], "regions"),
    ],
)
def test_labels_without_a_plain_lesion_are_refused(labels: object, message: str) -> None:
    with pytest.raises(MisconfiguredError, match=message):
        lesion_labels({"labels": labels}, "")


def test_other_labels_than_the_lesions_keep_their_names() -> None:
    labels = {"background": 0, "tumour": 2, "liver": 1}
    assert lesion_labels({"labels": labels}, "tumour") == {"background": 0, "lesion": 2, "liver": 1}
