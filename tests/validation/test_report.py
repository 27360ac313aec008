"""The report: strict HTML, nothing from outside, sentences that say no more than the tests, same bytes."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from typer.testing import CliRunner

from app.cli.evaluate import evaluate
from app.domain.measures import DICE, FALSE_POSITIVE_ML
from app.domain.scores import ScanScore, Validation, VoxelCounts
from app.domain.volume import Grid
from app.errors import MisconfiguredError
from app.imaging.nifti import write_array
from app.validation.groups import M4_OR_M2, Group, compared
from app.validation.report.figures import agreement, chosen_cases, kept_result
from app.validation.report.page import environment, report_from, write_report
from app.validation.report.wording import (
    cohort_sentences,
    comparison_sentence,
    interval_in_words,
    main_conclusions,
    p_in_words,
    short_verdict,
    verdict,
    warnings,
    without_folders,
)
from app.validation.scores import ReportAbout, read_about, write_about, write_scores
from app.validation.statistics import compare_pairs, describe
from tests.validation.made_scores import (
    EXTERNAL,
    INTERNAL,
    M2,
    M4,
    NO_PRIOR,
    SPECT,
    empty,
    made,
    series,
    whole_evaluation,
    write_images,
)

ABOUT = ReportAbout(
    title="M1 to M4 <on> a & b",
    simulated=True,
    software_version="0.0",
    models={"M4": "m4-demo"},
    commands=("psma-node experiment --work /srv/someone/exp",),
    seeds={"training": 3},
    hours={"M4": 1.5},
    settings="folds: 5\nwork: ~/secret/place",
    notes=("Trained for minutes.",),
)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment's folder with its report."""
    folder = tmp_path_factory.mktemp("experiment")
    scores = whole_evaluation()
    cohort, _ = write_images(folder, scores)
    write_scores(scores, folder / "scores.csv")
    write_about(ABOUT, folder / "about.json")
    report_from(folder, folder / "report.html", cohort)
    return folder


@pytest.fixture(scope="module")
def text(experiment: Path) -> str:
    return (experiment / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(text: str) -> ElementTree.Element:
    """Strictly parsed: an unclosed element, a bare ampersand or a repeated attribute would fail."""
    kind, page = text.split("\n", 1)
    assert kind == "<!DOCTYPE html>"
    return parsed(page)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - our own page


def words(tree: ElementTree.Element) -> str:
    return " ".join(" ".join(tree.itertext()).split())


def test_the_report_needs_nothing_from_outside(tree: ElementTree.Element, text: str) -> None:
    assert not {"script", "link", "iframe", "object"} & {node.tag for node in tree.iter()}
    assert all(node.get("src", "").startswith("data:image/png;base64,") for node in tree.iter("img"))
    assert [node.get("href") for node in tree.iter("a")] == ["https://doi.org/10.1186/s13550-026-01468-y"]
    assert "@import" not in text
    assert "url(" not in text


def test_every_picture_is_described_and_every_table_has_its_headers(tree: ElementTree.Element) -> None:
    pictures = list(tree.iter("img"))
    assert len(pictures) == 1 + 2 + 7  # boxes, volumes by validation, cases by model, modality, validation
    assert all(len(node.get("alt", "")) > 40 for node in pictures)
    for table in tree.iter("table"):
        assert table.findtext("caption")
        assert {node.get("scope") for node in table.iter("th")} == {"col", "row"}
        wide = {len(row) for row in table.iter("tr")}
        assert len(wide) == 1
    identities = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(identities) == len(set(identities))


def test_pictures_are_png_without_date_or_version(tree: ElementTree.Element) -> None:
    for node in tree.iter("img"):
        png = base64.b64decode(node.get("src", "").split(",")[1])
        assert png.startswith(b"\x89PNG")
        assert not re.search(rb"Software|tIME|Creation", png)


def test_the_first_screen_says_what_was_tested_on_whom_and_what_came_out(tree: ElementTree.Element) -> None:
    first = words(tree)
    first = first[: first.index("Every measure")]
    for needed in (
        "SIMULATED",
        "For research use.",
        "Internal validation, simulated patients: 4 of centre A (4 PET/CT, 4 SPECT/CT)",
        "External validation, simulated patients: 2 of centre B (2 SPECT/CT)",
        "M4 against M2: mean DSC 0.65 against 0.50 in the same 4 patients, difference +0.15",
        "0.63 ± 0.24",
        "Very few patients (2 in the smallest group)",
        f"in 1 of 4 patients M2 ran in place of M4: {NO_PRIOR} (1).",
        "Trained for minutes.",
    ):
        assert needed in first


def test_the_report_has_every_part(tree: ElementTree.Element) -> None:
    headings = [node.text for node in tree.iter("h2")]
    assert headings == [
        "Every measure", "Models compared", "Figures", "Best, median and worst case", "Every patient",
        "Definitions", "How to repeat this",
    ]  # fmt: skip
    assert "2 TP / (2 TP + FP + FN)" in words(tree)
    patients = [table for table in tree.iter("table") if table.get("class") == "patients"]
    assert sum(len(list(table.iter("tr"))) - 1 for table in patients) == len(whole_evaluation())


def test_mean_and_median_have_each_its_own_interval_below_them(tree: ElementTree.Element) -> None:
    own = [score.voxels.dice for score in Group(M4, SPECT, INTERNAL).of(whole_evaluation())]
    found = describe(own)
    assert found.interval is not None
    assert found.median_interval is not None
    mean, median = (interval_in_words(DICE, each) for each in (found.interval, found.median_interval))
    assert mean != median
    assert f"0.65 ± 0.13 95 % {mean} median 0.65 95 % {median} n 4" in words(tree)


def test_no_folder_of_the_machine_is_shown(text: str, experiment: Path) -> None:
    shown = re.sub(r"base64,[^\"]*", "", text)
    assert "--work …/exp" in shown
    assert "work: …/place" in shown
    assert not any(name in shown for name in ("/srv", "secret", str(experiment)))


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("--out /a/b/c.html", "--out …/c.html"),
        ("~/x/y", "…/y"),
        ("'/a/b c'", "'…/b c'"),
        ("SPECT/CT, Bq/ml, 1/2, g/ml·ml, a / b", "SPECT/CT, Bq/ml, 1/2, g/ml·ml, a / b"),
        ("https://doi.org/10.1/x and folds/0", "https://doi.org/10.1/x and folds/0"),
    ],
)
def test_only_absolute_paths_lose_their_folders(given_text: str, shown: str) -> None:
    assert without_folders(given_text) == shown


def test_the_same_scores_give_the_same_bytes_and_their_order_does_not_matter(tmp_path: Path) -> None:
    scores = whole_evaluation()
    for name, order in (("one", scores), ("two", scores[::-1])):
        write_report(order, None, None, ABOUT, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_pictures_of_cases_repeat_themselves(experiment: Path, tmp_path: Path, text: str) -> None:
    report_from(experiment / "scores.csv", tmp_path / "again.html", experiment / "cohort")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_the_main_comparison_stands_once_for_each_seed(tmp_path: Path) -> None:
    scores = whole_evaluation()
    write_scores(scores, tmp_path / "scores.csv")
    write_about(ABOUT, tmp_path / "about.json")
    report_from(tmp_path, tmp_path / "report.html")
    assert "Spread over seeds" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    external = [score for score in scores if score.key.validation is Validation.EXTERNAL]
    for seed in (10, 4):
        (tmp_path / f"all-{seed}").mkdir()
        write_scores(external, tmp_path / f"all-{seed}" / "scores.csv")
    report_from(tmp_path, tmp_path / "report.html")
    tree = parsed((tmp_path / "report.html").read_text(encoding="utf-8").split("\n", 1)[1])
    table = next(each for each in tree.iter("table") if "another seed" in (each.findtext("caption") or ""))
    rows = [[" ".join(cell.itertext()) for cell in row] for row in table.iter("tr")][1:]
    assert [row[0] for row in rows] == ["3", "4", "10"]  # that of the experiment first
    assert rows[0][1:] == rows[1][1:] == rows[2][1:]
    found = compared(scores, M4_OR_M2, Validation.EXTERNAL, DICE)
    assert found is not None
    assert rows[0][3].startswith(DICE.shown(found.mean_difference, signed=True))


def test_real_patients_are_not_called_simulated(tmp_path: Path) -> None:
    about = ABOUT.model_copy(update={"simulated": False, "title": "Patients"})
    write_report(whole_evaluation(), None, None, about, tmp_path / "report.html")
    shown = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "simulat" not in re.sub(r"base64,[^\"]*|<style>.*?</style>", "", shown, flags=re.DOTALL).lower()
    assert "No pictures: images or results were not kept." in shown


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = made(M4, "A-0", 5, used=M2)
    evil = replace(evil, key=replace(evil.key, why='<script>alert("1")</script>&\x01', patient="A<b>"))
    write_report([evil, made(M2, "A<b>", 4)], None, None, ABOUT, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert '<script>alert("1")</script>&\ufffd' in words(parsed(page.split("\n", 1)[1]))


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
@settings(deadline=None)
def test_any_text_survives_as_content_and_as_attribute(text: str) -> None:
    template = environment().from_string('<p title="{{ text }}">{{ text }}</p>')
    node = parsed(template.render(text=text))
    clean = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)
    assert (node.text or "") == clean
    assert re.sub(r"\s", " ", node.get("title", "")) == re.sub(r"\s", " ", clean)


def test_a_template_that_asks_for_what_is_not_there_fails() -> None:
    with pytest.raises(UndefinedError, match="not_there"):
        environment().from_string("<p>{{ not_there }}</p>").render()


def test_a_picture_says_where_no_result_was_kept(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    write_report(
        whole_evaluation(), experiment / "cohort", tmp_path / "predictions", ABOUT, tmp_path / "report.html"
    )
    assert (tmp_path / "report.html").read_bytes() != (experiment / "report.html").read_bytes()


def test_where_m2_ran_in_m4s_place_its_result_is_shown(experiment: Path) -> None:
    kept = experiment / "predictions"
    fell_back, fitted = made(M4, "A-3", 5, used=M2).key, made(M4, "A-3", 5).key
    assert kept_result(kept, fell_back) is not None
    assert kept_result(kept, fitted) is None  # M4 itself left no result there


def test_a_result_on_another_grid_is_refused(experiment: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment / "predictions", tmp_path / "predictions")
    moved = Grid.axis_aligned((12, 10, 8), (5.0, 5.0, 6.0), (0.0, 0.0, 0.0))
    for file in (tmp_path / "predictions" / "internal" / "M4").iterdir():
        write_array(file, np.zeros(moved.shape, np.uint8), moved)
    with pytest.raises(MisconfiguredError, match="the result is not on the functional image's grid"):
        write_report(
            whole_evaluation(),
            experiment / "cohort",
            tmp_path / "predictions",
            ABOUT,
            tmp_path / "report.html",
        )


@pytest.mark.parametrize(
    "scores",
    [
        [made(M4, "A-1", 5, validation=Validation.NODE, used=M2)],
        [empty(M2, "A-1"), empty(M4, "A-1")],
    ],
    ids=["one patient on the node", "nobody has a lesion"],
)
def test_the_smallest_evaluations_have_a_report(tmp_path: Path, scores: list[ScanScore]) -> None:
    write_report(scores, None, None, ABOUT, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    first = words(parsed(page.split("\n", 1)[1]))
    assert "Very few patients (1 in the smallest group)" in first
    assert "nan" not in first.lower().split()


def test_no_scores_and_twice_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to report"):
        write_report([], None, None, ABOUT, tmp_path / "report.html")
    with pytest.raises(ValueError, match="more than one score"):
        write_report([made(M2, "A-0", 5)] * 2, None, None, ABOUT, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_report_must_know_whether_patients_were_simulated(experiment: Path, tmp_path: Path) -> None:
    shutil.copy(experiment / "scores.csv", tmp_path)
    with pytest.raises(MisconfiguredError, match="simulated"):
        report_from(tmp_path, tmp_path / "report.html")
    (tmp_path / "about.json").write_text('{"title": "x", "software_version": "0"}')
    with pytest.raises(MisconfiguredError, match="simulated: Field required"):
        report_from(tmp_path, tmp_path / "report.html")


def test_what_an_evaluation_knows_of_itself_is_read_as_written(experiment: Path) -> None:
    found = read_about(experiment / "about.json")
    assert found.model_copy(update={"scores": None}) == ABOUT
    assert found.scores is not None
    assert found.scores.lines == 1 + len(whole_evaluation())


def test_scores_that_lost_whole_lines_are_refused(experiment: Path, tmp_path: Path) -> None:
    shutil.copy(experiment / "about.json", tmp_path)
    lines = (experiment / "scores.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "scores.csv").write_bytes(b"".join(lines[:5]))
    whole = 1 + len(whole_evaluation())
    with pytest.raises(MisconfiguredError, match=rf"5 lines, .* was written with {whole} lines"):
        report_from(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_scores_whose_numbers_were_changed_are_refused(experiment: Path, tmp_path: Path) -> None:
    shutil.copy(experiment / "about.json", tmp_path)
    scores = (experiment / "scores.csv").read_text(encoding="utf-8")
    (tmp_path / "scores.csv").write_text(scores.replace("0.15", "0.16", 1), encoding="utf-8")
    with pytest.raises(MisconfiguredError, match="damaged, or changed since"):
        report_from(tmp_path, tmp_path / "report.html")


def test_an_evaluation_from_before_the_digest_has_its_report(experiment: Path, tmp_path: Path) -> None:
    shutil.copy(experiment / "scores.csv", tmp_path)
    (tmp_path / "about.json").write_text(ABOUT.model_dump_json(exclude={"scores"}))
    report_from(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_the_command_writes_the_report_again(experiment: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "not" / "there" / "r.html"
    result = ran(str(experiment), "--out", str(out), "--cohort", str(experiment / "cohort"))
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8") == text
    assert "no pictures" not in result.output


def ran(*words: str) -> Result:
    one = typer.Typer()
    one.command()(evaluate)
    return CliRunner().invoke(one, [*words])


def test_a_place_where_no_report_can_be_is_refused_before_anything_is_read(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.validation.report.page.report_from", lambda *_: pytest.fail("computed already"))
    assert ran(str(experiment), "--out", str(tmp_path)).exit_code == 2
    (tmp_path / "file").touch()
    result = ran(str(experiment), "--out", str(tmp_path / "file" / "r.html"))
    assert isinstance(result.exception, MisconfiguredError)
    assert str(tmp_path / "file") in str(result.exception)


def test_a_disk_that_takes_no_report_is_a_sentence(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "r.html"))

    monkeypatch.setattr("app.validation.report.page.report_from", full)
    result = ran(str(experiment), "--out", str(tmp_path / "r.html"))
    assert isinstance(result.exception, MisconfiguredError)
    assert str(result.exception) == f"{tmp_path / 'r.html'}: No space left on device"


def test_a_report_without_pictures_says_why(experiment: Path, tmp_path: Path) -> None:
    for name in ("scores.csv", "about.json"):
        shutil.copy(experiment / name, tmp_path)
    shutil.copytree(experiment / "predictions", tmp_path / "predictions")
    result = ran(str(tmp_path), "--out", str(tmp_path / "r.html"))
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "no pictures of cases: there is no" in shown
    assert "--cohort" in shown


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--update-cards"], "--update-cards"),
        (["--centre", "A"], "--centre"),
        (["--set", "segment.pet_model=M3"], "--set"),
        (["--node", "--cohort", "."], "--cohort"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(experiment: Path, words: list[str], named: str) -> None:
    result = ran(str(experiment), *words)
    assert result.exit_code == 2
    assert named in result.output
    assert "with --node" in result.output


def test_best_median_and_worst_are_by_dsc_and_none_is_shown_twice() -> None:
    def names(scores: Sequence[ScanScore]) -> list[tuple[str, str]]:
        return [(case.name, case.score.key.patient) for case in chosen_cases(scores)]

    five = [empty(M2, "A-9"), *series(M2, [3, 9, 5, 1, 7])]
    assert names(five) == [("best", "A-1"), ("median", "A-2"), ("worst", "A-3")]
    assert names(series(M2, [3, 9])) == [("best", "A-1"), ("median and worst", "A-0")]
    assert names(series(M2, [3])) == [("best and median and worst", "A-0")]
    assert names([empty(M2, "A-9")]) == []


def against(first: Sequence[int], second: Sequence[int]) -> list[ScanScore]:
    return [*series(M4, first), *series(M2, second)]


def test_a_clear_difference_names_the_better_model() -> None:
    (sentence,) = main_conclusions(against([7, 8, 9, 6, 7, 8], [1, 3, 5, 3, 2, 1]))
    assert "M4 was better (Wilcoxon p = 0.031; paired t p < 0.001)." in sentence
    (sentence,) = main_conclusions(against([1, 3, 5, 3, 2, 1], [7, 8, 9, 6, 7, 8]))
    assert "M2 was better" in sentence


def test_no_difference_is_not_called_equality() -> None:
    (sentence,) = main_conclusions(against([5, 6, 4, 7, 5, 3, 6], [6, 4, 5, 6, 7, 4, 5]))
    assert "No difference could be shown (Wilcoxon p = " in sentence
    assert "does not prove that there is none" in sentence
    assert "better" not in sentence


def test_the_verdict_says_when_patients_are_too_few_to_show_anything() -> None:
    (sentence,) = main_conclusions(against([7, 8, 9], [1, 2, 4]))
    assert "With 3 patients that differ, this test could not have shown any." in sentence


def test_of_an_error_less_is_better() -> None:
    found = compare_pairs([1, 2, 3, 4, 5, 6], [3, 5, 7, 9, 11, 13])
    assert verdict(M4_OR_M2, FALSE_POSITIVE_ML, found).startswith("M4 was better")
    assert short_verdict(M4_OR_M2, FALSE_POSITIVE_ML, found) == "M4 better"
    assert short_verdict(M4_OR_M2, DICE, found) == "M2 better"


def test_tests_that_disagree_are_a_hint() -> None:
    found = compare_pairs([0.01, 0.02, 0.03, 0.04, 0.05, 9.0], [0] * 6)
    assert found.wilcoxon is not None
    assert found.paired_t_p is not None
    assert found.wilcoxon.p < 0.05 < found.paired_t_p
    assert "The two tests disagree at 0.05" in verdict(M4_OR_M2, DICE, found)
    assert short_verdict(M4_OR_M2, DICE, found) == "M4 better; the tests disagree"


def test_the_verdict_says_when_the_mean_points_the_other_way() -> None:
    found = compare_pairs([*[0.1 + n / 100 for n in range(12)], -9.0], [0] * 13)
    assert "M4 was better" in verdict(M4_OR_M2, DICE, found)
    assert "The mean points the other way" in verdict(M4_OR_M2, DICE, found)


def test_without_a_test_the_reason_stands_in_its_place() -> None:
    same = compared(against([5, 6], [5, 6]), M4_OR_M2, INTERNAL, DICE)
    assert same is not None
    assert "No p-value: no pair differs." in comparison_sentence(M4_OR_M2, INTERNAL, DICE, same)
    assert main_conclusions(series(M2, [5, 6])) == [
        "No two models were measured on the same patients, so nothing can be compared."
    ]


def test_patients_without_a_dsc_are_counted() -> None:
    found = warnings([*series(M2, [5, 6]), empty(M2, "A-9")], simulated=False)
    assert (
        "Patients without a DSC (truth and result both empty), left out of its means: internal M2 SPECT/CT 1."
        in found
    )


@pytest.mark.parametrize(("patients", "word"), [(9, "Very few"), (10, "Few"), (29, "Few"), (30, "")])
def test_small_groups_are_warned_of(patients: int, word: str) -> None:
    found = [text for text in warnings(series(M2, [5] * patients), simulated=False) if "group" in text]
    assert [text.split(" patients")[0] for text in found] == ([word] if word else [])


def test_centres_of_a_validation_are_counted_apart() -> None:
    scores = [made(M2, "A-0", 5), made(M2, "A-1", 5), made(M4, "A-1", 5), made(M2, "C-0", 5)]
    (sentence,) = cohort_sentences(scores, simulated=False)
    assert sentence.startswith("Internal validation, patients: 2 of centre A and 1 of centre C (3 SPECT/CT);")


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (0.35, "p = 0.35"),
        (0.0496, "p = 0.0496"),
        (0.05, "p = 0.050"),
        (0.014, "p = 0.014"),
        (0.0004, "p < 0.001"),
    ],
)
def test_a_p_value_is_never_rounded_on_to_the_other_side(p: float, shown: str) -> None:
    assert p_in_words(p) == shown


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    scores = [replace(made(M2, f"A-{n}", 5), voxels=VoxelCounts(10, n, 0)) for n in range(4)]
    bias, half = agreement(scores, Group(M2, SPECT, INTERNAL))
    differences = 0.15 * np.arange(4)
    assert bias == pytest.approx(differences.mean())
    assert half == pytest.approx(1.96 * differences.std(ddof=1))
    assert agreement([made(M2, "B-0", 5, validation=EXTERNAL)], Group(M2, SPECT, EXTERNAL))[1] is None
