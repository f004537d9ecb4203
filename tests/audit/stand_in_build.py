"""A build that takes no minutes: the command line of the stand-in checkout, which audits run like the real one.

What it makes is a function of the checkout's files, as an image is: a list of files, a root, an image that names the
root's hash, a disk that holds both. Copied to ``appliance/cli/__main__.py`` of a repository of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from appliance.stand_in_images import uki

SITE = "/usr/lib/chrysalis/lib/python3.13/site-packages"
CHECKOUT = Path(__file__).resolve().parents[2]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wait() -> None:
    """Say that the build began, and go on only while nobody holds it."""
    begun, held = (os.environ.get(name) for name in ("STAND_IN_BEGUN", "STAND_IN_HELD"))
    if begun:
        Path(begun).write_text(str(os.getpid()))
    while held and Path(held).exists():
        time.sleep(0.05)


def listed(root: dict[str, bytes]) -> str:
    lines = [f"{path}\tfile 0644 0:0 {len(data)} {digest(data)}" for path, data in sorted(root.items())]
    return "\n".join(["/usr\tdirectory 0755 0:0", *lines]) + "\n"


def build() -> dict[str, bytes]:
    sources = sorted((CHECKOUT / "appliance" / "worker").glob("*.py"))
    root = {f"{SITE}/appliance/worker/{path.name}": path.read_bytes() for path in sources}
    for path in sources:
        root[f"{SITE}/appliance/worker/__pycache__/{path.stem}.cpython-313.pyc"] = b"pyc" + path.read_bytes()
    record = "".join(f"{path},{digest(data)}\n" for path, data in sorted(root.items()))
    root[f"{SITE}/chrysalis_appliance_guest-0.1.0.dist-info/RECORD"] = record.encode()
    files = listed(root).encode()
    whole = b"root" + files + b"".join(data for _, data in sorted(root.items()))
    initrd = b"070701" + (CHECKOUT / "image" / "init").read_bytes()
    image = uki({".initrd": initrd}, command_line=f"console=ttyS0 quiet roothash={digest(whole)}")
    return {
        "chrysalis.root.files": files,
        "chrysalis.root.raw": whole,
        "chrysalis.root-verity.raw": digest(whole).encode(),
        "chrysalis.initrd": initrd,
        "chrysalis.initrd.files": f"/init\tfile 0755 0:0 {len(initrd)} {digest(initrd)}\n".encode(),
        "chrysalis.efi": image,
        "chrysalis.raw": image + whole,
    }


def main() -> None:
    words = sys.argv[1:]
    assert words[:2] == ["image", "build"], words
    assert "--offline" in words
    if (CHECKOUT / "broken").exists():
        sys.exit("error: this source does not build")
    output = Path(words[words.index("--output") + 1])
    wait()
    output.mkdir(parents=True)
    made = build()
    for name, data in made.items():
        (output / name).write_bytes(data)
    git = ["git", "-C", str(CHECKOUT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    locks = sorted((CHECKOUT / "image" / "lock").iterdir())
    root_hash = digest(made["chrysalis.root.raw"])
    manifest = {
        "image_id": "chrysalis",
        "version": "0.1.0",
        "profile": words[words.index("--profile") + 1],
        "command_line": f"console=ttyS0 quiet roothash={root_hash}",
        "root_hash": root_hash,
        "source_commit": commit,
        "source_modified": bool(changed),
        "locks": {path.name: digest(path.read_bytes()) for path in locks},
    }
    (output / "manifest.json").write_text(json.dumps(manifest))
    sys.stdout.write(json.dumps({"ok": True, "directory": str(output)}) + "\n")


main()
