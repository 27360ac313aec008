"""Write app.json and pkg.json of the MONAI Application Package, from app.yaml and the models that are packed.

    python MAP/manifests.py --platform cpu|cuda --models models --out DIR

The keys are those of the MONAI Application Package specification and of ``holoscan_cli`` 4.2.0;
``MAP/schema`` has them as JSON schemas.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from app import __version__
from app.inference.models.store import ModelStore
from app.settings import SHIPPED_CONFIG, Settings, load_settings

API_VERSION = "1.0.0"
"""Of the manifests."""

SDK, SDK_PACKAGE = "monai-deploy", "monai-deploy-app-sdk"

APPLICATION_ROOT = "/opt/holoscan/app"
MODEL_ROOT = "/opt/holoscan/models"
INPUT, OUTPUT, WORK = "/var/holoscan/input", "/var/holoscan/output", "/var/holoscan"

ENVIRONMENT = {
    "HOLOSCAN_APPLICATION": APPLICATION_ROOT,
    "HOLOSCAN_INPUT_PATH": INPUT,
    "HOLOSCAN_OUTPUT_PATH": OUTPUT,
    "HOLOSCAN_WORKDIR": WORK,
    "HOLOSCAN_MODEL_PATH": MODEL_ROOT,
    "HOLOSCAN_CONFIG_PATH": f"{APPLICATION_ROOT}/app.yaml",
    "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
    "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
}
"""What a platform sets, or may rely on; the Dockerfile says the same."""

PLATFORMS = {"cpu": "cpu", "cuda": "dgpu"}
"""Kind of image, and what the package manifest calls it."""


def application_manifest(settings: Settings) -> dict[str, Any]:
    """app.json: how to run it."""
    return {
        "apiVersion": API_VERSION,
        "command": json.dumps(["/usr/local/bin/psma-map", "process"]),
        "environment": ENVIRONMENT,
        "input": {"path": INPUT, "formats": ["file"]},
        "liveness": None,
        "output": {"path": OUTPUT, "formats": ["file"]},
        "readiness": None,
        "sdk": SDK,
        "sdkVersion": metadata.version(SDK_PACKAGE),
        "timeout": settings.application.timeout_s,
        "version": __version__,
        "workingDirectory": WORK,
    }


def package_manifest(settings: Settings, models: Sequence[str], platform: str) -> dict[str, Any]:
    """pkg.json: what is in it, and what it needs."""
    needs = settings.resources
    gpus: Mapping[str, Any] = {"gpu": 0} if platform == "cpu" else _gpus(settings)
    return {
        "apiVersion": API_VERSION,
        "applicationRoot": APPLICATION_ROOT,
        "modelRoot": MODEL_ROOT,
        "models": {model: f"{MODEL_ROOT}/{model}" for model in models},
        "resources": {"cpu": needs.cpu, "memory": needs.memory, **gpus},
        "version": __version__,
        "platformConfig": PLATFORMS[platform],
    }


def _gpus(settings: Settings) -> Mapping[str, Any]:
    """An image for GPUs asks for one; whoever runs it without says so to the platform."""
    return {"gpu": max(1, settings.resources.gpu), "gpuMemory": settings.resources.gpu_memory}


def main() -> None:
    """Write both into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--platform", choices=PLATFORMS, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    settings = load_settings(SHIPPED_CONFIG)
    models = [card.id for card in ModelStore(given.models).cards()]
    given.out.mkdir(parents=True, exist_ok=True)
    manifests = {
        "app.json": application_manifest(settings),
        "pkg.json": package_manifest(settings, models, given.platform),
    }
    for name, manifest in manifests.items():
        (given.out / name).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
