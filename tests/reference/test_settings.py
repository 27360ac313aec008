"""app.yaml, the environment and --set become one frozen record, or an error that names the key."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from app.domain.stack.ct_agreement import CtAgreementPolicy
from app.errors import MisconfiguredError
from app.reference import settings_reference
from app.settings import SHIPPED_CONFIG, Settings, load_settings


def written(folder: Path, text: str) -> Path:
    file = folder / "app.yaml"
    file.write_text(text)
    return file


def test_the_shipped_file_is_valid() -> None:
    assert load_settings(SHIPPED_CONFIG).application.name == "psma-node"


def test_an_unknown_key_names_file_key_and_nearest_key(tmp_path: Path) -> None:
    file = written(tmp_path, "receive: {ae_tittle: X}\n")
    message = r"app\.yaml: unknown key receive\.ae_tittle \(nearest: ae_title\)"
    with pytest.raises(MisconfiguredError, match=message):
        load_settings(file)


def test_an_unknown_key_inside_a_list_is_found(tmp_path: Path) -> None:
    file = written(tmp_path, "deliver: {destinations: [{name: a, ae_title: A, host: h, prt: 104}]}\n")
    with pytest.raises(MisconfiguredError, match=r"deliver\.destinations\.prt \(nearest: port\)"):
        load_settings(file)


@pytest.mark.parametrize(
    "place", [*(each.name for each in fields(Settings)), "load.ct_agreement", "quantify.sites"]
)
def test_every_record_refuses_a_key_that_it_does_not_have(place: str) -> None:
    with pytest.raises(MisconfiguredError, match=rf"unknown key {place}\.nonsense "):
        load_settings(SHIPPED_CONFIG, [f"{place}.nonsense=1"])


def test_a_key_that_is_no_text_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"app\.yaml: unknown key receive\.True \(known: ae_title, "):
        load_settings(written(tmp_path, "receive: {yes: 1}\n"))


def test_a_misspelt_section_in_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSMA_NODE__RECIEVE__PORT", "7")
    message = r"PSMA_NODE__RECIEVE__PORT: unknown key recieve \(nearest: receive\)"
    with pytest.raises(MisconfiguredError, match=message):
        load_settings(written(tmp_path, ""))


def test_a_record_given_as_a_whole_replaces_the_record_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "load: {ct_agreement: {min_gain: 0.5}}\n")
    limits = load_settings(file, ["load.ct_agreement={max_shift_mm: 20}"]).load.ct_agreement
    assert limits == CtAgreementPolicy(max_shift_mm=20.0)


def test_an_unknown_section_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"unknown key recieve \(nearest: receive\)"):
        load_settings(written(tmp_path, "recieve: {port: 1}\n"))


def test_an_unknown_key_from_outside_the_file_names_where_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"^--set receive\.prt: unknown key receive\.prt"):
        load_settings(written(tmp_path, "receive: {port: 7}\n"), ["receive.prt=5"])


@pytest.mark.parametrize("text", ["{SUVbw}g/ml", "'{SUVbw}g/ml'", "g/ml{SUVbw}"])
def test_text_from_outside_the_file_needs_no_quotes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spelled = text.strip("'")
    assert load_settings(SHIPPED_CONFIG, [f"write.suv_unit={text}"]).write.suv_unit == spelled
    monkeypatch.setenv("PSMA_NODE__WRITE__SUV_UNIT", text)
    assert load_settings(SHIPPED_CONFIG).write.suv_unit == spelled


@pytest.mark.parametrize("item", ["receive.port={7}x", "load.other_suv=[SUL", "write.suvunit={x}y"])
def test_what_is_no_yaml_is_refused_where_no_text_is_due(item: str) -> None:
    with pytest.raises(MisconfiguredError, match="not valid YAML"):
        load_settings(SHIPPED_CONFIG, [item])


def test_a_wrong_type_names_the_key_and_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"receive\.port: found 'many'"):
        load_settings(written(tmp_path, "receive: {port: many}\n"))


def test_a_value_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="must not be negative"):
        load_settings(written(tmp_path, "segment: {minimum_lesion_ml: -1}\n"))


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_tcp_does_not_have_is_refused(port: str) -> None:
    with pytest.raises(MisconfiguredError, match="port is a TCP port, 0 to 65535"):
        load_settings(SHIPPED_CONFIG, [f"receive.port={port}"])


def test_a_wrong_value_names_where_it_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "receive: {port: many}\n")
    monkeypatch.setenv("PSMA_NODE__SEGMENT__MINIMUM_LESION_ML", "little")
    with pytest.raises(MisconfiguredError) as raised:
        load_settings(file, ["node.workers=-1", "align.max_prior_age_days=old"])
    assert sorted(str(raised.value).split("; ")) == [
        "--set align.max_prior_age_days: align.max_prior_age_days: found 'old', expected a number",
        "PSMA_NODE__SEGMENT__MINIMUM_LESION_ML: segment.minimum_lesion_ml: found 'little', expected a number",
        f"{file.name} with --set node.workers: node: workers must be 0 or more, found -1",
        f"{file.name}: receive.port: found 'many', expected a whole number",
    ]


def test_yaml_that_is_none_names_the_place_and_quotes_nothing() -> None:
    with pytest.raises(MisconfiguredError) as raised:
        load_settings(SHIPPED_CONFIG, ["receive.port=[secret"])
    assert "line 1, column " in str(raised.value)
    assert "unicode string" not in str(raised.value)


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "just text\n"])
def test_what_is_not_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MisconfiguredError, match=r"app\.yaml"):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


def test_set_wins_over_environment_and_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "receive: {port: 1001, ae_title: FILE, settle_s: 5}\n")
    monkeypatch.setenv("PSMA_NODE__RECEIVE__PORT", "1002")
    monkeypatch.setenv("PSMA_NODE__RECEIVE__AE_TITLE", "ENVIRONMENT")
    receive = load_settings(file, ["receive.port=1003"]).receive
    assert (receive.port, receive.ae_title, receive.settle_s) == (1003, "ENVIRONMENT", 5.0)


def test_a_malformed_value_in_the_environment_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSMA_NODE__RECEIVE__PORT", "[")
    with pytest.raises(MisconfiguredError, match="PSMA_NODE__RECEIVE__PORT"):
        load_settings(written(tmp_path, ""))


def test_a_secret_is_taken_from_its_file_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://node:a: #{b}'@db/node"
    (tmp_path / "secret").write_text(f"{url}\n")
    monkeypatch.setenv("PSMA_NODE__NODE__DATABASE_URL__FILE", str(tmp_path / "secret"))
    assert load_settings(written(tmp_path, "")).node.database_url == url


def test_what_is_no_text_is_yaml_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "destinations").write_text("- {name: a, ae_title: A, host: h, port: 104}\n")
    monkeypatch.setenv("PSMA_NODE__DELIVER__DESTINATIONS__FILE", str(tmp_path / "destinations"))
    assert load_settings(written(tmp_path, "")).deliver.destinations[0].port == 104


def test_a_setting_whose_own_name_ends_in_file_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSMA_NODE__NODE__LOG_FILE", "/somewhere/node.log")
    assert load_settings(written(tmp_path, "")).node.log_file == "/somewhere/node.log"


def test_a_secret_s_file_that_is_not_there_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSMA_NODE__NODE__DATABASE_URL__FILE", str(tmp_path / "gone"))
    with pytest.raises(MisconfiguredError, match=r"DATABASE_URL__FILE: cannot read .*gone: No such file"):
        load_settings(written(tmp_path, ""))


def test_a_setting_and_its_file_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSMA_NODE__NODE__DATABASE_URL", "sqlite:///a")
    monkeypatch.setenv("PSMA_NODE__NODE__DATABASE_URL__FILE", str(tmp_path / "secret"))
    with pytest.raises(MisconfiguredError, match="keep one of them"):
        load_settings(written(tmp_path, ""))


def test_set_takes_lists(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, ""), ["select.additional_tracers=[18F-FDG]"])
    assert settings.select.additional_tracers == ("18F-FDG",)


@pytest.mark.parametrize("item", ["port=1", "receive.port", "receive.port=[", "receive.port.x=1"])
def test_a_malformed_set_is_refused(tmp_path: Path, item: str) -> None:
    with pytest.raises(MisconfiguredError):
        load_settings(written(tmp_path, "receive: {port: 7}\n"), [item])


def test_the_models_folder_of_a_map_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLOSCAN_MODEL_PATH", "/somewhere/models")
    assert load_settings(written(tmp_path, "")).segment.models_folder == Path("/somewhere/models")


def test_the_digest_follows_what_changes_results_and_nothing_else(tmp_path: Path) -> None:
    file = written(tmp_path, "")
    plain = load_settings(file).digest
    assert load_settings(file, ["receive.port=1"]).digest == plain
    assert load_settings(file, ["segment.models_dir=/elsewhere"]).digest == plain
    assert load_settings(file, ["segment.minimum_lesion_ml=0.5"]).digest != plain
    assert load_settings(file, ["select.additional_tracers=[18F-FDG]"]).digest != plain


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings(written(tmp_path, "")).receive.port = 1  # type: ignore[misc]  # that is the point


def test_the_reference_in_docs_is_what_the_code_says() -> None:
    page = SHIPPED_CONFIG.parent / "docs" / "reference" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_reference(), (
        "run: psma-node settings > docs/reference/settings.md"
    )


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in settings_reference().splitlines() if line.startswith("| `")]
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]
