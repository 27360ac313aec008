"""nnU-Net's predictor, which makes no mask of outputs that are no numbers, on any device."""

from __future__ import annotations

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from app.errors import MisconfiguredError


class FinitePredictor(nnUNetPredictor):  # type: ignore[misc]  # nnU-Net has no types
    """nnU-Net itself refuses infinite outputs alone; the largest of NaN is its first label, background."""

    device: torch.device

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # PyTorch's decorator has no types
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Outputs for ``data`` ``(channels, z, y, x)``, on the CPU: nnU-Net's own, unchanged.

        Raises:
            MisconfiguredError: an output is infinite or no number.
        """
        logits: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
        if not bool(torch.isfinite(logits.sum(dtype=torch.float64))):
            raise MisconfiguredError(
                f"the network's outputs on {self.device} are not finite, so no lesions are made of them: its "
                "numbers are too large or its weights are damaged; install the model again, train it anew, "
                "or, where this was a GPU, set segment.device to cpu"
            )
        return logits
