"""A file from an unknown place: a pickle that holds code, a zip that leads elsewhere, changed weights."""

from __future__ import annotations

import builtins
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.cli.main import app
from app.errors import MisconfiguredError
from app.inference.importing.confinement import EVERYTHING
from app.inference.importing.install import member_names, pack, unpack
from app.inference.importing.nnunet_results import convert_checkpoint
from tests.inference.nnunet_source import checkpoint, export_zip, write_card_file, write_results
from tests.inference.tiny_model import write_tiny_model


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


def payloads(trace: Path) -> dict[str, Payload]:
    """Code that leaves a file behind, each by another way."""
    code = f"open({str(trace)!r}, 'w').close()"
    return {
        "posix.system": Payload(os.system, f"touch {trace}"),
        "exec": Payload(builtins.exec, code),
        "subprocess.Popen": Payload(subprocess.Popen, ["touch", str(trace)]),
    }


PAYLOADS = ["posix.system", "exec", "subprocess.Popen"]


def told_as(name: str) -> str:
    """Pickles of PyTorch have Python 2's names."""
    return name.replace("subprocess", "commands")


def import_command(source: Path, work: Path, *options: str) -> list[str]:
    card = write_card_file(work)
    given = ["--role", "M2", "--id", "mine", "--card", str(card), "--models-dir", str(work / "models")]
    return ["models", "import", str(source), *given, *options]


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_are_real(tmp_path: Path, name: str) -> None:
    torch.save({"network_weights": payloads(tmp_path / "trace")[name]}, tmp_path / "bad.pth")
    loaded = torch.load(tmp_path / "bad.pth", weights_only=False)["network_weights"]
    if isinstance(loaded, subprocess.Popen):
        loaded.wait()
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_malicious_pickle_in_a_zip_is_refused_and_does_nothing(
    tmp_path: Path, name: str, trust: tuple[str, ...]
) -> None:
    trace = tmp_path / "trace"
    contents = checkpoint(0, logging=payloads(trace)[name])  # beside weights that are as they should be
    source = export_zip(write_results(tmp_path / "results", contents=contents), tmp_path / "export.zip")
    result = CliRunner().invoke(app, import_command(source, tmp_path, *trust))
    assert isinstance(result.exception, MisconfiguredError)
    assert (f"it names {told_as(name)}," if trust else "--trust") in str(result.exception)
    assert not trace.exists()
    assert not list((tmp_path / "models").glob("**/*"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_name_is_reported_whatever_the_pickles_protocol(tmp_path: Path, protocol: int) -> None:
    torch.save({"a": Payload(subprocess.Popen, ["true"])}, tmp_path / "bad.pth", pickle_protocol=protocol)
    with pytest.raises(MisconfiguredError, match=r"names (subprocess|commands)\.Popen"):
        convert_checkpoint(tmp_path / "bad.pth", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't read|does not take"),
        (b"PK\x03\x04 and no more", "can't read|does not take"),
        ({"weights": 1}, "no network_weights"),
        ({"network_weights": {"a": "b"}}, "something else than numbers"),
        ({"network_weights": {"a": torch.zeros(2, dtype=torch.int64)}}, "something else than numbers"),
        ({"network_weights": {"a": torch.zeros(2)}}, "names no trainer"),
    ],
)
def test_what_is_no_checkpoint_of_nnunet_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(MisconfiguredError, match=message):
        convert_checkpoint(path, tmp_path / "weights")


ATTEMPTS = """
import json, os, socket, subprocess, sys
sys.path[:] = json.loads(sys.argv[1])
from app.inference.importing.confinement import give_up_rights, leave_network
enforced = leave_network() + give_up_rights(1 << 30, 1 << 20, 60)
def connect():
    socket.socket().connect(("127.0.0.1", int(sys.argv[2])))
def fork():
    if os.fork() == 0:
        os._exit(0)
attempts = {
    "read": lambda: open("/etc/hostname").read(),
    "write": lambda: open(sys.argv[3], "w"),
    "list": lambda: os.listdir("/"),
    "connect": connect,
    "fork": fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "memory": lambda: bytearray(4 << 30),
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
    except (OSError, MemoryError):
        continue
    done.append(name)
print(json.dumps({"done": done, "enforced": enforced}))
"""


def test_the_process_that_reads_pickles_can_do_what_it_says_it_cannot_only_where_it_says_so(
    tmp_path: Path,
) -> None:
    """Nothing is said to be enforced that is not; where this machine offers all, nothing is left."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-I", "-c", ATTEMPTS, json.dumps(sys.path), port, str(tmp_path / "trace")]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(ended.stdout)
    forbidden_by = dict(zip(("connect", "memory", "", "fork", "", "read"), EVERYTHING, strict=True))
    forbidden_by |= dict.fromkeys(("write", "list", "exec"), forbidden_by["read"])
    allowed = {name for name, words in forbidden_by.items() if name and words not in answer["enforced"]}
    assert set(answer["done"]) <= allowed
    assert (tmp_path / "trace").exists() == ("write" in answer["done"])


def evil_zip(path: Path, name: str, mode: int = stat.S_IFREG | 0o644) -> Path:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Dataset1/plans.json", "{}")
        archive.writestr(entry, "/etc/passwd")
    return path


@pytest.mark.parametrize("name", ["../trace", "/root/trace", "a/../../trace", "a\\..\\trace", "C:/trace"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MisconfiguredError, match="leads out of its folder"):
        member_names(evil_zip(tmp_path / "evil.zip", name))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFCHR | 0o644])
def test_a_link_or_device_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(MisconfiguredError, match="link or a device"):
        member_names(evil_zip(tmp_path / "evil.zip", "Dataset1/fold_0/checkpoint_final.pth", mode))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/weights.safetensors", bytes(64 << 20))
    with pytest.raises(MisconfiguredError, match="would grow"):
        member_names(tmp_path / "bomb.zip")


def test_a_zip_of_very_many_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(20_001):
            archive.writestr(str(number), b"")
    with pytest.raises(MisconfiguredError, match="20001 files"):
        member_names(tmp_path / "many.zip")


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(MisconfiguredError, match="comes twice"):
        member_names(tmp_path / "twice.zip")


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights" * 100)
    pack([("a/file", tmp_path / "file")], tmp_path / "good.zip")
    damaged = (tmp_path / "good.zip").read_bytes().replace(b"weights", b"Weights", 1)
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(MisconfiguredError, match="damaged"):
        unpack(tmp_path / "bad.zip", {"a/file": tmp_path / "out"})
    (tmp_path / "none.zip").write_bytes(b"no zip")
    with pytest.raises(MisconfiguredError, match="can't be read as a zip"):
        member_names(tmp_path / "none.zip")


def test_verify_names_every_bad_file_of_every_model(tmp_path: Path) -> None:
    for model_id in ("one", "two", "three", "four"):
        write_tiny_model(tmp_path, model_id=model_id)
    with (tmp_path / "one" / "weights.safetensors").open("ab") as stream:
        stream.write(b" ")
    (tmp_path / "one" / "plans.json").unlink()
    (tmp_path / "three" / "model.yaml").write_text("id: [")
    with (tmp_path / "four" / "dataset.json").open("ab") as stream:
        stream.write(b" ")
    result = CliRunner().invoke(app, ["models", "verify", "--models-dir", str(tmp_path)])
    assert result.exit_code == 1
    told = result.output
    for words in ("one/weights.safetensors: SHA-256 is", "one/plans.json: not found", "four/dataset.json"):
        assert words in told
    assert "three/model.yaml: not readable" in told
    assert "two: 3 files as in its card" in told
