"""A package index of our own making: small wheels in a folder, so that building needs no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.engine import lockfile
from appliance.engine.environment import Locks

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Index:
    """A folder of wheels that pip finds with ``--find-links`` and nothing else."""

    folder: Path
    locks_folder: Path
    hashes: dict[str, str] = field(default_factory=dict)

    def wheel(self, name: str, version: str, code: str = "") -> Path:
        """Add a wheel with one module."""
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": code.encode(),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(
            f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
            for path, data in files.items()
        )
        files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
        path = self.folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(zipfile.ZipInfo(member), data)
        self.hashes[f"{name}=={version}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return path

    def lock(self, filename: str, *pins: str, wrong: str = "") -> lockfile.LockFile:
        """A locked file of those pins; ``wrong`` names one that gets a hash of something else."""
        text = ""
        for pin in pins:
            version_hashes = [self.hashes.get(pin, "e" * 64)]
            if pin == wrong:
                version_hashes = ["f" * 64]
            if pin == "torch==1.0" and (local := self.hashes.get("torch==1.0+cpu")):
                version_hashes.append(local)
            hashes = " \\\n".join(f"    --hash=sha256:{value}" for value in version_hashes)
            text += f"# bytes: 1000\n{pin} \\\n{hashes}\n"
        path = self.locks_folder / filename
        path.write_text(text)
        return lockfile.parse(path)

    def locks(self, *, wrong: str = "") -> Locks:
        """The three files of an engine made of our wheels."""
        return Locks(
            self.lock("engine.txt", "sglang==0.1", "torch==1.0", wrong=wrong),
            self.lock("torch.txt", "torch==1.0+cpu"),
            self.lock("cuda.txt", "cudalibs==3.0"),
        )
