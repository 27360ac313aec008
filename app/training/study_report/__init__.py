"""The report of a validation as one HTML file: :func:`write_report`, and :func:`report_from` for a folder."""

from app.training.study_report.about import ABOUT_FILE, ReportAbout, read_about, write_about
from app.training.study_report.cases import Predictions, predictions_in
from app.training.study_report.folder import PREDICTIONS_FOLDER, report_from
from app.training.study_report.page import write_report

__all__ = [
    "ABOUT_FILE",
    "PREDICTIONS_FOLDER",
    "Predictions",
    "ReportAbout",
    "predictions_in",
    "read_about",
    "report_from",
    "write_about",
    "write_report",
]
