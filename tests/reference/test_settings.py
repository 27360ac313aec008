"""app.yaml, the environment and --set become one frozen record, or an error that names the key."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.ranges import Range, Ranged, rules_in
from app.domain.selection.policy import SelectionPolicy
from app.domain.stack.ct_agreement import CtAgreementPolicy
from app.errors import MisconfiguredError
from app.node.peers import ReceivePolicy
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
    with pytest.raises(MisconfiguredError, match=r"deliver\.destinations\.0\.prt \(nearest: port\)"):
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
    with pytest.raises(MisconfiguredError, match=r"segment\.minimum_lesion_ml: found -1, expected 0 to 100$"):
        load_settings(written(tmp_path, "segment: {minimum_lesion_ml: -1}\n"))


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_tcp_does_not_have_is_refused(port: str) -> None:
    with pytest.raises(MisconfiguredError, match=rf"receive\.port: found {port}, expected 0 to 65535$"):
        load_settings(SHIPPED_CONFIG, [f"receive.port={port}"])


def test_a_wrong_value_names_where_it_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "receive: {port: many}\n")
    monkeypatch.setenv("PSMA_NODE__SEGMENT__MINIMUM_LESION_ML", "little")
    with pytest.raises(MisconfiguredError) as raised:
        load_settings(file, ["node.workers=-1", "align.max_prior_age_days=old"])
    assert sorted(str(raised.value).split("; ")) == [
        "--set align.max_prior_age_days: align.max_prior_age_days: found 'old', expected a number",
        "--set node.workers: node.workers: found -1, expected 0 to 64",
        "PSMA_NODE__SEGMENT__MINIMUM_LESION_ML: segment.minimum_lesion_ml: found 'little', expected a number",
        f"{file.name}: receive.port: found 'many', expected a whole number",
    ]


def test_every_fault_is_named_at_once_unknown_keys_too(tmp_path: Path) -> None:
    file = written(tmp_path, "receive: {prt: 1, ae_title: 'A\\B'}\nnode: {poll_s: -1, first: 2}\nnod: {}\n")
    with pytest.raises(MisconfiguredError) as raised:
        load_settings(file, ["deliver.tiemout_s=3"])
    assert [problem.split(" (")[0] for problem in raised.value.problems] == [
        f"{file.name}: receive.ae_title: found 'A\\\\B', expected an AE title: 1 to 16 characters of ASCII, "
        "no backslash, no space before or after",
        f"{file.name}: unknown key receive.prt",
        "--set deliver.tiemout_s: unknown key deliver.tiemout_s",
        f"{file.name}: node.poll_s: found -1, expected 0.01 to 3600",
        f"{file.name}: unknown key node.first",
        f"{file.name}: unknown key nod",
    ]


def settings_fields(record: Any = Settings) -> Iterator[tuple[Any, str, Any]]:
    """Every setting: its record, its name, its annotation."""
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
        inner = [one for one in kinds_in(hint) if isinstance(one, type) and is_dataclass(one)]
        for one in inner:
            yield from settings_fields(one)
        if not inner and name in {each.name for each in fields(record)}:
            yield record, name, hint


def kinds_in(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from kinds_in(inner)


@functools.cache
def adapter(record: Any) -> TypeAdapter[Any]:
    return TypeAdapter(record)


FIELDS = {f"{record.__name__}.{name}": (record, name, hint) for record, name, hint in settings_fields()}


def test_every_number_has_a_range_with_two_ends_and_its_record_keeps_it() -> None:
    for place, (record, _, hint) in FIELDS.items():
        kinds, rules = set(kinds_in(hint)), [rule for rule, _ in rules_in(hint)]
        assert not {int, float} & kinds or rules, f"{place} has no range: Annotated[…, Range(least, most)]"
        assert not rules or issubclass(record, Ranged), f"{place}: its record does not inherit Ranged"
        for rule in rules:
            assert not isinstance(rule, Range) or -math.inf < rule.least < rule.most < math.inf


@pytest.mark.parametrize("place", [place for place, (_, _, hint) in FIELDS.items() if [*rules_in(hint)]])
def test_what_a_setting_may_not_be_is_refused_by_its_name(place: str) -> None:
    record, name, hint = FIELDS[place]
    for rule, is_list in rules_in(hint):
        wrong = (math.nan, math.inf, -1e15, 1e15) if isinstance(rule, Range) else ("a\tb", "x" * 100)
        for one in wrong:
            if rule.allows(one):
                continue
            with pytest.raises(ValidationError) as raised:
                adapter(record).validate_python({name: [one] if is_list else one})
            found = [item["msg"] for item in raised.value.errors() if item["loc"][0] == name]
            assert found
            assert found[0].endswith((f"expected {rule}", "finite number"))


@pytest.mark.parametrize(
    "item",
    [
        "receive.max_associations=0",
        "receive.max_pdu_bytes=100",
        "receive.idle_timeout_s=0",
        "node.heartbeat_s=0",
        "node.poll_s=-1",
        "receive.port=99999",
        'receive.ae_title="A\\B"',
        "receive.ae_title=GRÖẞE",
        'receive.ae_title=" PACS"',
        'receive.ae_title="PACS "',
        'receive.ae_title=""',
        "receive.ae_title=SEVENTEEN_LETTERS",
        'deliver.calling_ae_title="A\tB"',
        "deliver.destinations=[{name: a, ae_title: 'A ', host: h, port: 104}]",
        "deliver.destinations=[{name: a, ae_title: A, host: 'h:104', port: 104}]",
        "deliver.destinations=[{name: a, ae_title: A, host: h, port: 0}]",
        "receive.allowed_callers=[{ae_title: ' '}]",
        "align.max_rotation_deg=.nan",
    ],
)
def test_what_would_stop_a_node_is_refused_before_it_starts(item: str) -> None:
    with pytest.raises(MisconfiguredError, match="expected "):
        load_settings(SHIPPED_CONFIG, [item])


def test_a_record_made_without_a_file_keeps_its_ranges_too() -> None:
    with pytest.raises(ValueError, match=r"max_associations: found 0, expected 1 to 1000"):
        ReceivePolicy(max_associations=0)
    with pytest.raises(ValueError, match=r"preferred_energies_kev: found 5\.0, expected 10 to 2000"):
        SelectionPolicy(preferred_energies_kev=(208.0, 5.0))


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


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [touch {mark}]", "!!python/name:os.system"]
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str) -> None:
    mark = tmp_path / "was here"
    with pytest.raises(MisconfiguredError, match="could not determine a constructor"):
        load_settings(written(tmp_path, f"receive: {text.format(mark=mark)}\n"))
    with pytest.raises(MisconfiguredError, match="could not determine a constructor"):
        load_settings(SHIPPED_CONFIG, [f"receive.port={text.format(mark=mark)}"])
    assert not mark.exists()
