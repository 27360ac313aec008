"""PSMA node: a DICOM node that segments PSMA lesions on PET/CT and 177Lu SPECT/CT."""

__version__ = "0.1.0"
