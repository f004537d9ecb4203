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

from appliance.cli import judging
from appliance.cli import verify as verify_module
from appliance.cli.main import build
from appliance.errors import ConfigError
from attestation import remote
from attestation.report import Facts
from attestation.tdx_log import TdxLog
from attestation.verdict import Check, Verdict
from measurements import acpi_file, tdx
from measurements.acpi_file import CaptureFacts, table_inputs
from measurements.errors import ChrysalisError, EventLogError
from measurements.eventlog import MAX_LOG
from measurements.manifest import canonical
from measurements.shape import ShapeError, parse_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

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
    assert (finding["event"], finding["change"]) == ("TD HOB", "memory 16384 MiB")
    cause = finding["causes"][0]
    assert (cause["input"], cause["certain"]) == ("memory", True)
    assert "16384 MiB" in cause["sentence"]
    assert cause["remedy"]
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


def test_explain_says_what_moves_nothing(files: Path, tmp_path: Path) -> None:
    """A configuration moves MRCONFIGID alone: of a machine that reports RTMR0 it explains nothing, and that is said."""
    line = next(line for line in (files / "large.txt").read_text().splitlines() if line.startswith("rtmr0"))
    (tmp_path / "rtmr0.txt").write_text(line)
    words = ["explain", *usual(files), "--try-configuration", (b"x" * 32).hex(), "--all"]
    code, value = told(*words, "--registers", tmp_path / "rtmr0.txt")
    assert code == 1
    assert value["findings"][0]["register"] == "rtmr0"
    assert f"configuration {(b'x' * 32).hex()}" in value["moves_no_register"]
    assert "memory 16384 MiB" not in value["moves_no_register"], "the control"
    assert "machine with hpet=off" not in value["moves_no_register"], "its tables are not at hand: nothing is claimed"


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


def verified(*words: object) -> Result:
    """The command in this process; what it raised is left in the result."""
    return CliRunner().invoke(build("verify"), ["verify", *map(str, words)])


def of_release(files: Path) -> list[object]:
    return ["--shape", files / "direct.toml", "--release", files]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "FILES/direct.toml"], "--shape and --release belong together"),
        (["--release", "FILES"], "--shape and --release belong together"),
        (["--shape", "nowhere", "--release", "FILES"], "no shape is called 'nowhere'"),
        (["--shape", "FILES/tables.acpi", "--release", "FILES"], "tables.acpi"),
        (["--shape", "FILES/direct.toml", "--release", "FILES/nowhere"], "nowhere: No such file"),
    ],
)
def test_verify_refuses_wrong_options_before_it_judges(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    judged: list[str] = []

    async def recorded(wanted: judging.Wanted) -> judging.Judged:
        judged.append(wanted.target)
        return await judging.judge(wanted)

    monkeypatch.setattr(verify_module, "judge", recorded)
    done = verified(files / "large.quote", *(word.replace("FILES", str(files)) for word in words))
    assert isinstance(done.exception, ChrysalisError)
    assert message in str(done.exception)
    assert judged == []
    verified(files / "large.quote", *of_release(files))
    assert judged == [str(files / "large.quote")], "control"


def test_verify_explains_the_bytes_that_it_judged(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is another one when the verdict is there: the verdict and its explanation are of the same bytes."""
    file = tmp_path / "evidence.quote"

    async def exchanging(wanted: judging.Wanted) -> judging.Judged:
        judged = await judging.judge(wanted)
        file.write_bytes((files / "firmware.quote").read_bytes())
        return judged

    def differs(done: Result) -> list[str]:
        return [item["register"] for item in json.loads(done.stdout)["explanation"]["findings"]]

    file.write_bytes((files / "other.quote").read_bytes())
    expected = differs(verified(file, *of_release(files), "--json"))
    assert expected != differs(verified(files / "firmware.quote", *of_release(files), "--json")), "control"
    monkeypatch.setattr(verify_module, "judge", exchanging)
    assert differs(verified(file, *of_release(files), "--json")) == expected


def test_verify_explains_what_a_port_shows(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (files / "firmware.quote").read_bytes()
    monkeypatch.setattr(
        remote,
        "fetch",
        lambda _endpoint, nonce: remote.Fetched(shown, nonce, bytes(32), remote.Endpoint("worker", 9443)),
    )
    plain = verified("worker:9443")
    done = verified("worker:9443", *of_release(files))
    assert plain.exit_code == done.exit_code == 1
    assert "hardware root of trust" in done.stdout
    assert "differs in" in done.stdout
    assert "differs in" not in plain.stdout, "control"


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("data", [None, b"no evidence"])
def test_a_verdict_stands_without_its_explanation(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, accepted: bool
) -> None:
    """A certificate alone, and evidence of which nothing can be read: said after the verdict, whose status stays."""
    check = Check("quote", accepted, "seen", "expected", "a reason", why="why", group="quote")
    verdict = Verdict(accepted, "none", "tdx", bytes(32), bytes(32), (check,), 0.0, machine=b"m", judged_at=0.0)

    async def found(_wanted: judging.Wanted) -> judging.Judged:
        return judging.Judged(verdict, Facts(source="worker:9443"), data)

    monkeypatch.setattr(verify_module, "judge", found)
    page = tmp_path / "verdict.html"
    done = verified("worker:9443", *of_release(files), "--html", page)
    assert done.exit_code == (0 if accepted else 1)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("not explained: ")
    assert "chrysalis attest collect" in lines[-1]
    assert "quote" in page.read_text()
    plain = verified("worker:9443")
    assert (plain.exit_code, plain.stdout.splitlines()) == (done.exit_code, lines[:-1]), "control"
    value = json.loads(verified("worker:9443", *of_release(files), "--json").stdout)
    assert value["ok"] is accepted
    assert "chrysalis attest collect" in value["not_explained"]["hint"]
    assert "explanation" not in value


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["predict", "--shape", "FILES/direct.toml", "--image", "FILES/nowhere"], "directory of a built release"),
        (["predict", "--shape", "FILES/direct.toml", "--firmware", "FILES/nowhere"], "--firmware names"),
        (["predict", "--shape", "FILES/direct.toml", "--kernel", "FILES/nowhere"], "--kernel names"),
        (["predict", "--shape", "FILES/direct.toml", "--acpi", "FILES/nowhere"], "chrysalis measure acpi"),
        (["predict", "--shape", "FILES/direct.toml", "--disk", "FILES/nowhere"], "--disk names"),
        (["explain", "--shape", "FILES/direct.toml", "FILES/nowhere"], "name a bundle's file"),
        (["explain", "--shape", "FILES/direct.toml", "--registers", "FILES/nowhere"], "--registers names"),
        (["explain", "--shape", "FILES/direct.toml", "--try-image", "FILES/nowhere"], "--try-image names"),
        (["explain", "--shape", "FILES/direct.toml", "--image", "FILES", "FILES/firmware.quote", "--all",
          "--try-manifest", "FILES/nowhere"], "--try-manifest names"),
        (["log", "FILES/nowhere"], "name an event log"),
        (["compare", "FILES/nowhere", "FILES/same.ccel"], "name a prediction"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_asked_for_as_what_it_is(files: Path, words: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match="nowhere: No such file") as found:
        measure(*(word.replace("FILES", str(files)) for word in words))
    assert hint in found.value.hint
    assert "host:port" not in found.value.hint


def test_evidence_is_asked_for_in_its_own_words(tmp_path: Path) -> None:
    """Control of the hints: evidence keeps its own, and what is too long is told by the hint of its use."""
    long = tmp_path / "long"
    long.write_bytes(bytes(judging.MAX_FILE_BYTES + 1))
    assert "host:port" in hint_of(lambda: judging.read_evidence(tmp_path / "nowhere"))
    assert hint_of(lambda: judging.read_evidence(long)) == "this is no evidence"
    assert hint_of(lambda: judging.read_file(long, hint="another")) == "another"
    for path in (long, tmp_path / "nowhere"):
        assert "evidence" not in hint_of(lambda: judging.read_file(path))  # noqa: B023 - called at once
        assert hint_of(lambda: judging.read_file(path))  # noqa: B023 - called at once


def hint_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as found:
        call()
    return found.value.hint


def test_a_directory_without_a_releases_files_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("another directory")
    shape = ["--shape", files / "direct.toml", "--acpi", files / "tables.acpi"]
    with pytest.raises(ConfigError) as found:
        measure("predict", *shape, "--image", tmp_path)
    for word in (str(tmp_path), "chrysalis.efi", "chrysalis.raw", "OVMF.fd"):
        assert word in found.value.message
    assert "chrysalis image build" in found.value.hint
    (tmp_path / "OVMF.fd").write_bytes((files / "OVMF.fd").read_bytes())
    assert "mrtd" in measure("predict", *shape, "--image", tmp_path)[1], "control: one file of a release"


@pytest.mark.parametrize("text", ["no toml", 'name = "usual"', "a = " + "[" * 4000])
def test_a_shape_that_is_none_is_named(files: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ShapeError) as found:
        measure("predict", "--shape", file, "--image", files)
    assert found.value.message.startswith(f"{file}: the shape")
    assert "docs/shapes.md" in found.value.hint
    assert (ROOT / "docs" / "shapes.md").read_text().count("[firmware]"), "there is one on that page"
    file.write_text((files / "direct.toml").read_text())
    assert measure("predict", "--shape", file, "--image", files)[0] == 0, "control"


def test_a_log_with_bytes_behind_its_limit_is_refused(files: Path, tmp_path: Path) -> None:
    """It would lose them silently; a log of the greatest length, filled up, is read (control)."""
    file = tmp_path / "log.bin"
    whole = (files / "same.ccel").read_bytes().ljust(MAX_LOG, b"\0")
    file.write_bytes(whole)
    assert told("log", file)[1]["registers"] == told("log", files / "same.ccel")[1]["registers"]
    file.write_bytes(whole + b"more")
    with pytest.raises(EventLogError, match=f"log of {MAX_LOG + 4} bytes, at most {MAX_LOG} are read"):
        measure("log", file)


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
