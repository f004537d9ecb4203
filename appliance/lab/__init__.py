"""The world on one machine: a chain, machines that prove themselves, an engine; nothing here enters an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.liteserver import LiteServer
    from appliance.lab.cloud_world_azure import AzureAttack, AzureWorld
    from appliance.lab.cloud_world_gcp import GcpAttack, GcpWorld
    from appliance.lab.collateral_server import CollateralServer
    from appliance.lab.demo import Demonstration
    from appliance.lab.errors import LabError
    from appliance.lab.gpu_world import SyntheticGpus
    from appliance.lab.gpu_world_attack import GpuAttack
    from appliance.lab.gpu_world_vendor import GpuVendor
    from appliance.lab.paper_tpm import Booted
    from appliance.lab.secure_boot import SecureBootKeys
    from appliance.lab.snp_machine import SnpAttack, SnpMachine
    from appliance.lab.snp_world import SyntheticSnp
    from appliance.lab.stub_engine import StubEngine
    from appliance.lab.tdx_machine import TdxMachine
    from appliance.lab.tee import SyntheticTdx
    from appliance.lab.tpm_world import TpmWorld
    from appliance.lab.tvm import Tvm
    from appliance.lab.world import Economy, World

__all__ = [
    "AzureAttack",
    "AzureWorld",
    "Booted",
    "CollateralServer",
    "Demonstration",
    "DevNet",
    "Economy",
    "GcpAttack",
    "GcpWorld",
    "GpuAttack",
    "GpuVendor",
    "LabError",
    "LiteServer",
    "SecureBootKeys",
    "SnpAttack",
    "SnpMachine",
    "StubEngine",
    "SyntheticGpus",
    "SyntheticSnp",
    "SyntheticTdx",
    "TdxMachine",
    "TpmWorld",
    "Tvm",
    "World",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "AzureAttack": "cloud_world_azure",
            "AzureWorld": "cloud_world_azure",
            "Booted": "paper_tpm",
            "CollateralServer": "collateral_server",
            "Demonstration": "demo",
            "DevNet": "chain.devnet",
            "Economy": "world",
            "GcpAttack": "cloud_world_gcp",
            "GcpWorld": "cloud_world_gcp",
            "GpuAttack": "gpu_world_attack",
            "GpuVendor": "gpu_world_vendor",
            "LabError": "errors",
            "LiteServer": "chain.liteserver",
            "SecureBootKeys": "secure_boot",
            "SnpAttack": "snp_machine",
            "SnpMachine": "snp_machine",
            "StubEngine": "stub_engine",
            "SyntheticGpus": "gpu_world",
            "SyntheticSnp": "snp_world",
            "SyntheticTdx": "tee",
            "TdxMachine": "tdx_machine",
            "TpmWorld": "tpm_world",
            "Tvm": "tvm",
            "World": "world",
        },
    )
