"""``chrysalis measure`` on files: a synthetic TDX machine, its quote and log, and a real machine's bundle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import staged_firmware as parts
import staged_tdx as staged
from measure_support import uki
from typer.testing import CliRunner

from appliance.cli.main import build
from attestation.tdx_log import TdxLog
from measurements import acpi_file, tdx
from measurements.acpi_file import CaptureFacts, table_inputs
from measurements.errors import ChrysalisError
from measurements.manifest import canonical
from measurements.shape import parse_shape

if TYPE_CHECKING:
    from appliance.lab.tdx_machine import TdxMachine

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "tests" / "tpm" / "data" / "guest.bundle"
SHAPE = """name = "usual"
platform = "tdx"
boot = "{boot}"
vcpus = 4
memory_mib = {memory}
[qemu]
version = "10.1.2"
[firmware]
name = "OVMF.fd"
version = "2025.02-8+deb13u1"
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release's directory, a shape, a capture of its tables; what two machines report."""
    folder = tmp_path_factory.mktemp("measure")
    machine = staged.usual()
    artefacts = machine.artefacts
    for name, content in {"OVMF.fd": artefacts.firmware, "chrysalis.efi": artefacts.image,
                          "chrysalis.raw": artefacts.disk}.items():  # fmt: skip
        (folder / name).write_bytes(content or b"")
    for boot in ("direct", "disk"):
        (folder / f"{boot}.toml").write_text(SHAPE.format(boot=boot, memory=8192))
    shape = parse_shape((folder / "direct.toml").read_text())
    facts = CaptureFacts(
        qemu="10.1.2", qemu_sha256="0" * 64, machine="q35", firmware_sha256="0" * 64, shape="usual",
        inputs=table_inputs(shape), command=("qemu-system-x86_64",),
    )  # fmt: skip
    assert artefacts.acpi is not None
    (folder / "tables.acpi").write_bytes(acpi_file.encode(artefacts.acpi, facts))
    for name, seen in {"same": machine, "large": staged.reshaped(machine, memory_mib=16384),
                       "other": staged.with_files(machine, measured_config=b"x" * 32)}.items():  # fmt: skip
        report(folder, name, seen)
    (folder / "other.fd").write_bytes(parts.firmware("second build"))
    report(folder, "firmware", staged.with_files(machine, firmware=parts.firmware("second build")))
    return folder


def report(folder: Path, name: str, machine: TdxMachine) -> None:
    """The quote of a machine, its log in both forms, and its registers as lines."""
    world = machine.world()
    (folder / f"{name}.quote").write_bytes(world.quote(bytes(64)))
    (folder / f"{name}.log").write_bytes(world.event_log())
    (folder / f"{name}.ccel").write_bytes(TdxLog.parse(world.event_log()).firmware)
    values = machine.boot().registers
    names = {"mr_td": "mrtd", "mr_config_id": "mrconfigid"}
    lines = [f"{names.get(key, key)}: {value.hex()}" for key, value in values.items()]
    (folder / f"{name}.txt").write_text("\n".join(lines))


def measure(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(build("measure"), ["measure", *map(str, words)])
    if isinstance(done.exception, ChrysalisError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def told(*words: object) -> tuple[int, dict[str, Any]]:
    code, output = measure(*words, "--json")
    return code, json.loads(output.splitlines()[-1])


def usual(files: Path, boot: str = "direct") -> list[object]:
    configuration = staged.configured("usual").hex()
    return ["--shape", files / f"{boot}.toml", "--image", files, "--acpi", files / "tables.acpi",
            "--configuration", configuration]  # fmt: skip


def test_predict_says_what_the_predictor_says(files: Path) -> None:
    code, value = told("predict", *usual(files))
    assert code == 0
    machine = staged.usual()
    expected = tdx.predict(machine.artefacts, machine.shape)
    assert {name: item["value"] for name, item in value["registers"].items()} == {
        name: item.hex() for name, item in expected.values.items()
    }
    assert value["registers"].keys() >= {"mrtd", "rtmr0", "rtmr1", "rtmr2", "mrconfigid"}
    assert value["schema"] == "chrysalis prediction 1"
    code, text = measure("predict", *usual(files), "--events")
    assert code == 0
    assert "TD HOB" in text
    assert "moved by: memory" in text
    code, text = measure("predict", *usual(files)[:-2])
    assert "mrconfigid   not predicted: no measured config given" in text


def test_explain_finds_nothing_in_a_machine_that_is_as_predicted(files: Path) -> None:
    code, value = told("explain", *usual(files), files / "same.quote")
    assert (code, value["ok"], value["equal"], value["findings"]) == (0, True, True, [])
    code, text = measure("explain", *usual(files), "--registers", files / "same.txt", "--log", files / "same.log")
    assert code == 0
    assert re.match("equal: [56] registers as predicted for usual", text)
    assert "the log replays" in text


@pytest.mark.parametrize("log", [None, "large.log", "large.ccel"])
def test_explain_names_the_cause(files: Path, tmp_path: Path, log: str | None) -> None:
    picture = tmp_path / "why.svg"
    logged = ["--log", files / log] if log else []
    code, value = told("explain", *usual(files), files / "large.quote", *logged, "--picture", picture)
    assert code == 1
    assert value["ok"] is False
    (finding,) = [item for item in value["findings"] if item["register"] == "rtmr0"]
    if log is None:
        assert finding["causes"], "the tables of other sizes are not at hand: no size explains all of the register"
    else:
        assert finding["event"] == "TD HOB"
        assert finding["change"] == "memory 16384 MiB"
        assert finding["causes"][0] == {
            "input": "memory",
            "certain": True,
            "sentence": finding["causes"][0]["sentence"],
            "remedy": finding["causes"][0]["remedy"],
        }
    assert picture.read_text().startswith("<svg")


def test_explain_tries_what_is_given_to_be_tried(files: Path) -> None:
    words = ["explain", *usual(files), "--registers", files / "firmware.txt"]
    code, value = told(*words, "--try-firmware", files / "other.fd")
    assert code == 1
    assert value["changes"] == ["firmware other.fd"]
    code, value = told(*words)
    assert value["changes"] == [], "control: the file is not at hand"
    assert {cause["input"] for item in value["findings"] for cause in item["causes"]} >= {"firmware"}
    code, value = told("explain", *usual(files), files / "other.quote", "--try-configuration", (b"x" * 32).hex())
    assert value["changes"] == [f"configuration {(b'x' * 32).hex()}"]


def test_explain_says_what_moves_nothing(files: Path) -> None:
    code, value = told("explain", *usual(files), files / "other.quote", "--all")
    assert code == 1
    assert value["findings"][0]["register"] == "mrconfigid"
    assert "machine with hpet=off" not in value["moves_no_register"], "its tables are not at hand: nothing is claimed"
    assert value["tried"] > 50


def test_explain_does_not_believe_the_log_of_another_machine(files: Path) -> None:
    code, value = told("explain", *usual(files), files / "same.quote", "--log", files / "large.log")
    assert (code, value["log_refuted"]) == (0, "rtmr0")
    code, value = told("explain", *usual(files), files / "large.quote", "--log", files / "same.log")
    assert (code, value["log_refuted"]) == (1, "rtmr0")
    assert value["registers"]["rtmr0"]["basis"] != "log"


def test_log_shows_events_and_replays_them(files: Path) -> None:
    code, value = told("log", files / "same.ccel")
    assert code == 0
    machine = staged.usual()
    expected = tdx.predict(machine.artefacts, machine.shape)
    assert value["registers"]["rtmr0"] == expected.values["rtmr0"].hex()
    assert value["bank"] == "sha384"
    said = [item["said"] for item in value["events"]]
    assert "variable SecureBoot empty" in said
    assert measure("log", files / "same.log")[1].count("rtmr1") > 1


def test_log_of_a_real_machines_bundle_agrees_with_its_registers() -> None:
    code, value = told("log", BUNDLE)
    assert (code, value["not_confirmed"]) == (0, [])
    assert "firmware version '2025.02-8+deb13u1'" in [item["said"] for item in value["events"]]
    assert set(value["registers"]) >= {"pcr0", "pcr4", "pcr7", "pcr11", "pcr14"}
    code, text = measure("log", BUNDLE)
    assert "pcr0    0101271704ccc236" in text
    assert "= reported" in text
    assert "≠" not in text


def test_compare_lays_any_two_side_by_side(files: Path, tmp_path: Path) -> None:
    first = tmp_path / "prediction.json"
    first.write_text(measure("predict", *usual(files), "--json")[1].splitlines()[-1])
    for name, form in (("same", "quote"), ("same", "ccel"), ("same", "txt"), ("same", "log")):
        code, value = told("compare", first, files / f"{name}.{form}")
        assert (code, value["equal"]) == (0, True), (form, value["summary"])
    code, value = told("compare", first, files / "large.ccel")
    assert code == 1
    changed = [item["name"] for item in value["registers"]["rtmr0"]["events"] if item["kind"] == "changed"]
    assert changed[0] == "TD HOB"
    code, value = told("compare", files / "same.ccel", files / "large.log")
    assert code == 1
    assert [item["kind"] for item in value["registers"]["rtmr0"]["events"]].count("changed") == 1
    code, value = told("compare", files / "same.ccel", files / "firmware.log")
    assert [item["register"] for item in value["findings"]] == [], "the volume with variables is the same in both"
    assert told("compare", first, files / "firmware.quote")[1]["findings"][0]["register"] == "mrtd"
    assert told("compare", first, first)[0] == 0


def test_compare_of_a_bundle_with_itself_and_with_altered_registers(tmp_path: Path) -> None:
    assert told("compare", BUNDLE, BUNDLE)[0] == 0
    code, value = told("log", BUNDLE)
    registers = tmp_path / "registers.json"
    registers.write_bytes(canonical({**value["registers"], "pcr4": "00" * 32}))
    code, value = told("compare", BUNDLE, registers)
    assert code == 1
    assert [item["register"] for item in value["findings"]] == ["pcr4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--shape", "nowhere"], "no shape is called 'nowhere'"),
        (["predict", "--shape", "FILES/direct.toml"], "no firmware given"),
        (["predict", "--shape", "FILES/direct.toml", "--initrd", "FILES/OVMF.fd"], "belong to --kernel"),
        (["predict", "--shape", "FILES/direct.toml", "--acpi", "FILES/OVMF.fd"], "capture"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES"], "either a bundle or --registers"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES", "FILES/OVMF.fd"], "neither a bundle"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES", "--registers", "FILES/OVMF.fd"], "no text"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES", "FILES/same.quote", "--log",
          "FILES/same.txt"], "log"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES", "FILES/same.quote", "--try-model", "m"],
         "as a file"),
        (["explain", "--shape", "FILES/direct.toml", "FILES/same.quote", "--capture"], "no firmware|its firmware"),
        (["log", "FILES/OVMF.fd"], "log"),
        (["compare", "FILES/OVMF.fd", "FILES/same.ccel"], "log"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(files: Path, words: list[str], message: str) -> None:
    with pytest.raises(ChrysalisError) as found:
        measure(*(word.replace("FILES", str(files)) for word in words))
    assert re.search(message, str(found.value))


def test_statuses_of_the_program(files: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "appliance.cli", "measure", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)

    assert run("explain", *usual(files), files / "same.quote").returncode == 0
    assert run("explain").returncode == 2
    refused = run("log", files / "absent.bin", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"].endswith("No such file or directory")
    assert "Traceback" not in refused.stderr


def test_a_page_has_the_picture(files: Path, tmp_path: Path) -> None:
    page = tmp_path / "verdict.html"
    words = ["verify", str(files / "large.quote"), "--shape", str(files / "direct.toml"), "--release", str(files)]
    CliRunner().invoke(build("verify"), [*words, "--html", str(page)])
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "Registers and prediction" in text
    assert "<script" not in text
    without = tmp_path / "without.html"
    CliRunner().invoke(build("verify"), [words[0], words[1], "--html", str(without)])
    assert "<svg" not in without.read_text(), "control"


def test_a_changed_image_is_told_from_a_changed_command_line(files: Path, tmp_path: Path) -> None:
    """The same image with another initrd, given to be tried: certain; the release's own image is not the cause."""
    machine = staged.usual()
    image = uki({".initrd": b"another initrd" * 9})
    report(tmp_path, "image", staged.with_files(machine, image=image))
    (tmp_path / "other.efi").write_bytes(image)
    code, value = told("explain", *usual(files), tmp_path / "image.quote", "--log", tmp_path / "image.log",
                       "--try-image", tmp_path / "other.efi")  # fmt: skip
    assert (code, value["changes"]) == (1, ["image other.efi"])
    code, value = told("explain", *usual(files), tmp_path / "image.quote", "--log", tmp_path / "image.log")
    inputs = {item["register"]: item["causes"][0]["input"] for item in value["findings"]}
    assert inputs.keys() == {"rtmr1", "rtmr2"}
    assert set(inputs.values()) <= {"image", "initrd"}
