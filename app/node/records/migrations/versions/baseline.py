"""The tables of version 0.1.0.

That version leaves no mark in its databases, and makes each table and index where it is missing. So does this
step: it makes a new database, completes an older one, and changes nothing in one of version 0.1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

UID = sa.String(64)


def upgrade() -> None:
    """Make what is missing."""
    _make_inbox_and_ledgers()
    _make_deliveries()
    _make_results()
    _make_studies()


def _make_inbox_and_ledgers() -> None:
    _table(
        "instances",
        _key("sop_instance_uid", UID),
        _key("sha256", sa.String(64)),
        _column("study_instance_uid", UID),
        _column("series_instance_uid", UID),
        _column("sop_class_uid", UID),
        _column("path", sa.String(512)),
        _column("bytes", sa.BigInteger()),
        _column("received_at", sa.DateTime()),
        _column("calling_ae", sa.String(16)),
        _column("conflict", sa.Boolean()),
    )
    _index("instances_by_study", "instances", ["study_instance_uid", "received_at"])
    _index("instances_by_arrival", "instances", ["received_at", "study_instance_uid"])
    _table(
        "audit_head",
        _key("log", sa.String(128)),
        _column("count", sa.Integer()),
        _column("sha256", sa.String(64)),
    )
    _table("executors", _key("executor_id", sa.String(64)), _column("beat_at", sa.DateTime()))
    _table(
        "runs",
        _key("study_instance_uid", UID),
        _key("revision", sa.Integer()),
        _column("content_digest", sa.String(64)),
        _column("state", sa.String(16)),
        _column("stage", sa.String(32)),
        _column("reason", sa.Text()),
        _column("attempt", sa.Integer()),
        _column("faults", sa.Integer()),
        _column("postponements", sa.Integer()),
        _optional("next_try_at", sa.DateTime()),
        _column("executor_id", sa.String(64)),
        _column("created_at", sa.DateTime()),
        _column("changed_at", sa.DateTime()),
        sa.UniqueConstraint("study_instance_uid", "content_digest"),
    )


def _make_deliveries() -> None:
    _table(
        "deliveries",
        _key("study_instance_uid", UID),
        _key("revision", sa.Integer()),
        _key("destination", sa.String(64)),
        _column("state", sa.String(16)),
        _column("attempt", sa.Integer()),
        _column("failures", sa.Integer()),
        _column("reason", sa.Text()),
        _optional("next_try_at", sa.DateTime()),
        _column("created_at", sa.DateTime()),
    )
    _table(
        "delivered_instances",
        _key("study_instance_uid", UID),
        _key("revision", sa.Integer()),
        _key("destination", sa.String(64)),
        _key("sop_instance_uid", UID),
        _column("sop_class_uid", UID),
        _column("kind", sa.String(16)),
        _column("path", sa.String(256)),
        _optional("acknowledged_at", sa.DateTime()),
        _optional("dicom_status", sa.Integer()),
    )


def _make_results() -> None:
    _table(
        "late_priors_told",
        _key("study_instance_uid", UID),
        _key("revision", sa.Integer()),
        _key("pet_study_instance_uid", UID),
    )
    _table(
        "pet_results",
        _key("study_instance_uid", UID),
        _key("functional_series_instance_uid", UID),
        _column("revision", sa.Integer()),
        _column("patient_id", sa.Text()),
        _column("issuer", sa.Text()),
        _column("ct_series_instance_uid", UID),
        _column("acquired_at", sa.String(32)),
        _column("lesion_count", sa.Integer()),
        _column("segmentation_sop_instance_uid", UID),
        _column("segmentation_path", sa.String(256)),
        _column("registered_at", sa.DateTime()),
    )
    _index("ix_pet_results_patient_id", "pet_results", ["patient_id"])
    _table(
        "shadow_comparisons",
        _key("id", sa.Integer()),
        _column("compared_at", sa.DateTime()),
        _column("study_instance_uid", UID),
        _column("revision", sa.Integer()),
        _column("functional_series_instance_uid", UID),
        _column("kind", sa.String(16)),
        _column("serving_id", sa.String(128)),
        _column("serving_weights_sha256", sa.String(64)),
        _column("serving_lesions", sa.Integer()),
        _column("serving_ml", sa.Float()),
        _column("shadow_id", sa.String(128)),
        _column("shadow_version", sa.String(64)),
        _column("shadow_weights_sha256", sa.String(64)),
        _column("shadow_prior_used", sa.Boolean()),
        _optional("shadow_lesions", sa.Integer()),
        _optional("shadow_ml", sa.Float()),
        _optional("dice", sa.Float()),
        _column("seconds", sa.Float()),
        _column("problem", sa.Text()),
    )


def _make_studies() -> None:
    _table(
        "observed_studies",
        _key("study_instance_uid", UID),
        _column("state", sa.String(16)),
        _column("reason", sa.Text()),
        _column("observed_at", sa.DateTime()),
    )
    _table(
        "study_subjects",
        _key("study_instance_uid", UID),
        _column("patient_id", sa.Text()),
        _column("issuer", sa.Text()),
        _optional("pet_acquired_at", sa.String(32)),
        _optional("spect_acquired_at", sa.String(32)),
    )
    _index("ix_study_subjects_patient_id", "study_subjects", ["patient_id"])


def _table(name: str, *parts: sa.Column[Any] | sa.UniqueConstraint) -> None:
    op.create_table(name, *parts, if_not_exists=True)


def _index(name: str, table: str, columns: Sequence[str]) -> None:
    op.create_index(name, table, columns, if_not_exists=True)


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True)


def _column(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _optional(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind)
