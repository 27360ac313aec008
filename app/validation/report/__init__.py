"""The report of a validation as one HTML file: :func:`write_report`, and :func:`report_from` for a folder."""

from app.validation.report.about import ABOUT_FILE, ReportAbout, read_about, write_about
from app.validation.report.cases import Predictions, predictions_in
from app.validation.report.page import report_from, write_report

__all__ = [
    "ABOUT_FILE",
    "Predictions",
    "ReportAbout",
    "predictions_in",
    "read_about",
    "report_from",
    "write_about",
    "write_report",
]
