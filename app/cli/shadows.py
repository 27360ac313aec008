"""``psma-node models shadow``: what the shadow models found, beside what was sent."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import ConfigOption, SetOption

if TYPE_CHECKING:
    from app.node.records.comparisons import ShadowRow


def shadow(
    config: ConfigOption = None,
    overrides: SetOption = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Every comparison, for a spreadsheet.")
    ] = None,
) -> None:
    """List every comparison of a shadow model with the model that served, and sum up each pair of models.

    Exit code: 0, 2 wrong settings (or no data folder there), 4 the database does not answer.
    """
    from app.node.records.stores import open_known_stores
    from app.settings import load_settings

    stores = open_known_stores(load_settings(config, overrides or []).node)
    rows = stores.shadows.all()
    stores.close()
    if csv_file is not None:
        _write_csv(rows, csv_file)
        typer.echo(f"{csv_file}: {len(rows)} comparisons")
        return
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        typer.echo("no comparison yet; name shadow models in segment.shadow_models (docs/models.md)")
    pairs = sorted({(row.kind, row.serving_id, row.shadow_id) for row in rows})
    for kind, serving, name in pairs:
        of_pair = [r for r in rows if (r.kind, r.serving_id, r.shadow_id) == (kind, serving, name)]
        typer.echo(f"{kind}, {name} beside {serving}: {_summary(of_pair)}")


def _line(row: ShadowRow) -> str:
    head = (
        f"{row.compared_at:%Y-%m-%d %H:%M}  {row.study_instance_uid} r{row.revision}  {row.kind}  "
        f"{row.serving_id} {row.serving_lesions} lesion(s) {row.serving_ml:.1f} ml  {row.shadow_id} "
    )
    if row.problem:
        return f"{head}{row.problem}"
    dice = "both empty" if row.dice is None else f"DSC {row.dice:.3f}"
    return f"{head}{row.shadow_lesions} lesion(s) {row.shadow_ml or 0.0:.1f} ml  {dice}"


def _summary(rows: Sequence[ShadowRow]) -> str:
    """Medians: a few studies with another tumour load would pull means about."""
    done = [row for row in rows if not row.problem]
    dice = [row.dice for row in done if row.dice is not None]
    differences = [row.shadow_ml - row.serving_ml for row in done if row.shadow_ml is not None]
    words = [f"{len(done)} compared, {len(rows) - len(done)} without result"]
    if dice:
        words.append(f"DSC median {statistics.median(dice):.3f}, lowest {min(dice):.3f}")
    if differences:
        words.append(f"tumour volume median {statistics.median(differences):+.1f} ml against what was sent")
    return "; ".join(words)


def _write_csv(rows: Sequence[ShadowRow], path: Path) -> None:
    from app.node.records.comparisons import ShadowRow

    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [item.name for item in fields(ShadowRow)])
        writer.writeheader()
        writer.writerows({**asdict(row), "compared_at": row.compared_at.isoformat()} for row in rows)
