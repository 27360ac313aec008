"""A model small enough for tests: nnU-Net's plans with a network of two stages and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from app.domain.decision import ModelRole
from app.inference.models.card import InferenceSettings, InputChannel, ModelCard, write_card
from app.inference.models.channels import channels_of
from app.inference.models.network import build_network, distinct_weights
from app.inference.models.store import sha256_of

CONFIGURATION = "3d_fullres"
SPACING_MM = (4.0, 4.0, 4.0)
PATCH = (16, 16, 16)

DATASET = {
    "channel_names": {"0": "CT", "1": "CT"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def plans() -> dict[str, Any]:
    """Plans in nnU-Net's own form (version 2.8.1)."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    intensity = {"mean": 5.0, "std": 3.0, "percentile_00_5": 0.0, "percentile_99_5": 15.0}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 2,
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": [40.0, 30.0, 30.0],
        "spacing": list(SPACING_MM),
        "normalization_schemes": ["CTNormalization", "CTNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "tinyPlans",
        "original_median_spacing_after_transp": list(SPACING_MM),
        "original_median_shape_after_transp": [40, 30, 30],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": intensity,
            "1": {"mean": 50.0, "std": 200.0, "percentile_00_5": -500.0, "percentile_99_5": 900.0},
        },
    }


def write_tiny_model(models: Path, role: ModelRole = ModelRole.M2, model_id: str = "tiny") -> ModelCard:
    """Write ``models/<model_id>/`` with random but fixed weights, and return its card."""
    folder = models / model_id
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    network = build_network(plans(), DATASET, CONFIGURATION)
    save_file(distinct_weights(network.state_dict()), str(folder / "weights.safetensors"))
    (folder / "plans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    channels = tuple(
        InputChannel(name=name, unit=unit, normalisation="fixed") for name, unit in channels_of(role)
    )
    card = ModelCard(
        id=model_id,
        role=role,
        version="0",
        tracers=("177Lu-PSMA-617",),
        channels=channels,
        labels={"background": 0, "lesion": 1},
        training_data="none: random weights",
        training_command="none",
        inference=InferenceSettings(configuration=CONFIGURATION, tile_step_size=0.5),
        licence="Apache-2.0",
        intended_use="tests",
        demonstration_only=True,
        files={
            name: sha256_of(folder / name) for name in ("weights.safetensors", "plans.json", "dataset.json")
        },
    )
    write_card(card, folder)
    return card
