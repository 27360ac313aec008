"""What is in the image, and that a platform finds in it what it looks for."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from app import __version__
from app.inference.models.store import ModelStore
from app.inference.policy import SHIPPED_MODELS
from tests.map.package import ROOT, Package, build

TOOLS_NOBODY_NEEDS = "cc gcc g++ c++ clang ld as make pip pip3 curl wget ssh git"


def test_show_prints_both_manifests(package: Package) -> None:
    shown = {name: json.loads(package.run("show", name).output) for name in ("app", "pkg")}
    assert shown["app"]["version"] == shown["pkg"]["version"] == __version__
    assert list(shown["pkg"]["models"]) == [card.id for card in ModelStore(SHIPPED_MODELS).cards()]
    found = package.inspected()["Config"]["Env"]
    assert {f"{key}={value}" for key, value in shown["app"]["environment"].items()} <= set(found)


def test_an_unknown_manifest_is_named(package: Package) -> None:
    done = package.run("show", "models")
    assert done.code == 2
    assert "models" in done.errors


def test_the_image_says_what_it_is_made_of(package: Package) -> None:
    git = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, check=False, text=True)  # a download has none
    labels = package.inspected()["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == (head.stdout.strip() or "unknown")


def test_its_files_are_as_old_as_the_commit_whatever_was_built_before(package: Package) -> None:
    git = ["git", "log", "-1", "--format=%ct"]
    # a download has none: 0
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, check=False, text=True)
    ours = "/etc/psma-node /etc/holoscan/app.json /opt/holoscan/app/app.yaml /usr/local/bin/psma-node"
    times = set(package.shell(f"stat --format=%Y {ours}").split())
    assert times == {commit.stdout.strip() or "0"}


def test_it_runs_as_nobody_special(package: Package) -> None:
    assert package.inspected()["Config"]["User"] == "1000:1000"
    assert package.shell("id -u; find / -xdev -perm /6000 -type f 2>/dev/null; true") == "1000\n"


def test_no_compiler_and_no_pip_are_left(package: Package) -> None:
    assert package.shell("command -v python3").strip()  # the question can be answered
    assert package.shell(f"for each in {TOOLS_NOBODY_NEEDS}; do command -v $each; done; true") == ""


def test_no_secret_and_no_way_to_packages_is_left(package: Package) -> None:
    # places that the build mounted something at stay behind, empty
    assert package.shell("find /etc/pip.conf /etc/pip-certificates.pem -size +0 2>/dev/null; true") == ""
    names = [line.partition("=")[0] for line in package.inspected()["Config"]["Env"]]
    assert names
    assert [name for name in names if re.search("PASSWORD|TOKEN|SECRET|URL|PROXY", name)] == []


def test_its_models_are_those_of_the_repository(package: Package) -> None:
    done = package.run("models", "verify")
    assert done.code == 0, done.errors
    for card in ModelStore(SHIPPED_MODELS).cards():
        assert card.id in done.output


def test_models_may_be_mounted_instead(package: Package, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    done = package.run("check", options=[f"--volume={tmp_path / 'models'}:/opt/holoscan/models:ro"])
    assert done.code == 1
    (line,) = [line for line in done.output.splitlines() if line.startswith("FAILED  models")]
    assert "/opt/holoscan/models" in line


def test_the_bill_of_materials_lists_python_packages_debian_packages_and_models(package: Package) -> None:
    bill = json.loads((ROOT / "MAP" / "dist" / f"psma-node-{__version__}-cpu.cdx.json").read_text("utf-8"))
    listed = {(component["name"], component.get("version", "")) for component in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    installed = package.shell(
        "/opt/venv/bin/python -c 'from importlib.metadata import distributions as d;"
        'print(*sorted({f"{x.name} {x.version}" for x in d()}), sep="\\n")\''
    )
    debian = package.shell("dpkg-query --show --showformat='${Package} ${Version}\\n'")
    lines = [*installed.splitlines(), *debian.splitlines()]
    expected = {(name, version) for name, version in map(str.split, lines)}
    assert len(expected) > 150
    assert expected - listed == set()
    assert {(card.id, "") for card in ModelStore(SHIPPED_MODELS).cards()} <= listed


def test_debian_s_packages_have_their_licences_where_a_machine_can_read_them(package: Package) -> None:
    bill = json.loads((ROOT / "MAP" / "dist" / f"psma-node-{__version__}-cpu.cdx.json").read_text("utf-8"))
    debian = [item for item in bill["components"] if item.get("purl", "").startswith("pkg:deb/")]
    told = {item["name"]: [each["license"] for each in item.get("licenses", [])] for item in debian}
    assert "GPL-3.0-or-later" in [licence.get("id") for licence in told["bash"]]
    assert told["libc6"] == []  # free text: nothing is said
    assert sum(map(bool, told.values())) > 0.7 * len(told)


def test_built_again_from_the_same_commit_it_has_the_same_layers(package: Package) -> None:
    before, first = package.inspected()["Id"], package.layers()
    again = build("psma-node:again", "--build-arg=REBUILD=1")
    second = again.layers()
    assert again.inspected()["Id"] != before  # it was made anew, not found
    # after the base image, what apt installs and the Python packages: folders, manifests, program, door
    assert len(first[3:]) == 4
    assert first[3:] == second[3:]
