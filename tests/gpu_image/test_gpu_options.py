"""The engine's options and environment on a GPU, and the profile's own files."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from appliance.engine.command_sglang import FORBIDDEN, TUNING
from appliance.engine.flags import SAMPLES, every_option, read_options
from appliance.engine.settings import EngineSettings
from appliance.image.profiles import read_profile

CHECKOUT = Path(__file__).resolve().parents[2]
PROFILE = CHECKOUT / "image/mkosi.profiles/engine-gpu"
UNITS = PROFILE / "mkosi.extra/usr/lib/systemd/system"
COMPILER = {"CC": "/usr/bin/gcc-13", "CXX": "/usr/bin/g++-13", "NVCC_PREPEND_FLAGS": "-ccbin=/usr/bin/g++-13"}


def test_the_check_reads_every_option_that_settings_can_make() -> None:
    names = {word.partition("=")[0] for word in every_option()}
    assert set(SAMPLES) == TUNING
    assert names >= TUNING
    assert names >= {"--tp-size", "--dp-size", "--mem-fraction-static", "--reasoning-parser", "--enable-cache-report"}
    assert names & set(FORBIDDEN) == {"--host", "--log-level", "--api-key", "--admin-api-key"}


def test_an_engine_that_is_not_there_is_said_in_one_line() -> None:
    said = read_options(every_option())
    assert said.startswith("the engine cannot start: ModuleNotFoundError: ")
    assert "\n" not in said


def test_kernels_are_compiled_into_the_engines_own_directory() -> None:
    cuda = EngineSettings(model_dir=Path("/m"), model_name="m", device="cuda")
    made = cuda.environment(COMPILER | {"LD_PRELOAD": "/x"}, Path("/run/chrysalis-engine/a"))
    assert made.items() >= COMPILER.items()
    assert "LD_PRELOAD" not in made
    caches = [value for name, value in made.items() if "CACHE" in name or "WORKSPACE" in name]
    assert len(caches) == 6
    assert all(value.startswith("/run/chrysalis-engine/a/") for value in caches)


def test_an_engine_on_a_cpu_gets_no_compiler() -> None:
    cpu = EngineSettings(model_dir=Path("/m"), model_name="m")
    assert not cpu.environment(COMPILER, Path("/s")).keys() & COMPILER.keys()


def test_the_profile_names_sglang_and_its_driver() -> None:
    profile = read_profile(PROFILE / "profile.toml")
    assert profile.engine is not None
    assert (profile.engine.name, profile.engine.distribution) == ("sglang", "sglang")
    assert [tree.produce for tree in profile.trees] == ["appliance.image.gpu_tree:produce"]


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read(UNITS / name, encoding="utf-8")
    return parser["Service"]


def test_the_modules_are_loaded_before_the_stages_lock_the_kernel() -> None:
    text = (UNITS / "chrysalis-gpu-modules.service").read_text()
    assert "Before=chrysalis-boot.service" in text
    assert set(unit("chrysalis-gpu-modules.service")["CapabilityBoundingSet"].split()) == {
        "CAP_SYS_MODULE", "CAP_MKNOD", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["nvidia-persistenced.service", "chrysalis-engine-flags.service"])
def test_services_of_the_profile_are_nobody_and_have_no_capability(name: str) -> None:
    service = unit(name)
    assert service["User"] in {"nvidia-persistenced", "chrysalis-engine"}
    assert service["CapabilityBoundingSet"] == ""
    assert service["DevicePolicy"] == "closed"
    assert service["ProtectSystem"] == "strict"


def test_only_the_engine_may_run_the_compiler_and_a_shell() -> None:
    allowed = [path.parent.name for path in UNITS.rglob("*.conf") if "ExecPaths=/usr/bin" in path.read_text()]
    assert allowed == ["chrysalis-engine.service.d"]
