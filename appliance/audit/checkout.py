"""The source step: the commit that the manifest names, checked out in the work directory.

The repository is cloned as from a stranger: through git's transport, which computes the name of every object from its
content, so that what is checked out is what the commit's name stands for, whoever keeps the repository. Uncommitted
changes in a path are no matter: they are not what is built. The checkout is made with no settings but git's own, and
runs no hook.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.audit.errors import AuditError, UncheckedError
from appliance.audit.outcome import Finding, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from appliance.audit.programs import Programs

NAME = "source"
TITLE = "The source"
MAX_NAMED = 20
"""Changed files that are named one by one."""

_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|[^/\s:]+@[^/\s:]+:).+", re.IGNORECASE)
_PLAIN = {
    "GIT_ATTR_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip
"""What is checked out depends on the commit alone: no setting of this machine changes a line end."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is built.

    Attributes:
        directory: A checkout.
        key: What it holds, for later steps: a commit's name or a digest of the tree.
        step: What the report says of it.
    """

    directory: Path
    key: str
    step: Step


def is_address(source: str) -> bool:
    """Whether a source is to be cloned over a network rather than a path of this machine."""
    return not Path(source).exists() and _ADDRESS.fullmatch(source) is not None


def check_out(source: str, commit: str, work: Path, programs: Programs) -> Source:
    """Check a commit out below the work directory.

    Args:
        source: A path, or an address.
        commit: Its name, 40 hexadecimal digits.
        work: The work directory.
        programs: Runs git.

    Raises:
        AuditError: ``source`` is neither.
        UncheckedError: It cannot be cloned, or has no such commit.
    """
    address = _address(source)
    checkout = work / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    own = {**_PLAIN, **_settings(work, checkout, *([] if is_address(source) else [Path(address)]))}
    # Over a network git needs this machine's settings: proxies and credentials.
    reaching = {"GIT_TERMINAL_PROMPT": "0"} if is_address(source) else own
    git = ["git", "-C", str(checkout)]
    programs.run(
        ["git", "clone", "--quiet", "--no-local", "--no-checkout", "--template=", "--", address, str(checkout)],
        environment=reaching,
    )  # no template: one of this machine's may bring attributes
    if not _has(programs, checkout, commit, own):
        try:
            programs.run([*git, "fetch", "--quiet", "origin", commit], environment=reaching)
        except UncheckedError:
            raise UncheckedError(
                f"the source {source} has no commit {commit}",
                hint="take the whole repository (not a shallow clone), or the one that the release was made from",
            ) from None
    programs.run(
        [*git, "-c", f"core.hooksPath={os.devnull}", "checkout", "--quiet", "--detach", commit], environment=own
    )
    seen = programs.run([*git, "rev-parse", "HEAD"], environment=own, quiet=True).strip()
    if seen != commit:
        raise UncheckedError(f"git checked out {seen} where commit {commit} was asked for")
    return Source(
        checkout,
        commit,
        Step(
            name=NAME,
            title=TITLE,
            status="same",
            summary=f"commit {commit} is checked out in {checkout}",
            inputs={"source": source, "commit": commit, "directory": str(checkout)},
            facts={"directory": str(checkout), "key": commit},
        ),
    )


def is_at(directory: Path, commit: str, programs: Programs) -> bool:
    """Whether a kept checkout is still there, at this commit, with nothing changed in it and nothing added."""
    if not directory.is_dir():
        return False
    environment = {**_PLAIN, **_settings(directory.parent, directory)}
    git = ["git", "-C", str(directory), "-c", "core.fsmonitor=false"]
    try:
        head = programs.run([*git, "rev-parse", "HEAD"], environment=environment, quiet=True).strip()
        changed = programs.run([*git, "status", "--porcelain", "--ignored"], environment=environment, quiet=True)
    except UncheckedError:
        return False
    return head == commit and not changed


def take_tree(source: str, commit: str | None, work: Path, programs: Programs) -> Source:
    """Take a tree as it lies there, and say in what it differs from the commit.

    Args:
        source: Its path.
        commit: The commit that the manifest names; None where it names none.
        work: The work directory.
        programs: Runs git.

    Raises:
        AuditError: ``source`` is no checkout of this project.
    """
    tree = Path(source).resolve()
    if not (tree / "appliance").is_dir() or not (tree / "image").is_dir():
        raise AuditError(f"{source} is no checkout of this project: it has no appliance/ and image/")
    environment = {**_PLAIN, **_settings(work, tree)}
    changed: list[str] = []
    notes = [f"built from {tree} as it lies there, not from the commit that the manifest names"]
    try:
        changed = _changed(tree, commit, programs, environment) if commit else []
    except UncheckedError:
        notes.append("what differs from that commit is not known: git does not know it here")
    digest = tree_digest(tree, _names(tree, programs, environment))
    named = changed[:MAX_NAMED] + ([f"and {len(changed) - MAX_NAMED} more"] if len(changed) > MAX_NAMED else [])
    return Source(
        tree,
        digest,
        Step(
            name=NAME,
            title=TITLE,
            status="same",
            summary=f"{tree} as it is; files changed since the manifest's commit: {len(changed)}",
            inputs={"source": source, "tree": digest, "commit of the manifest": commit or "none"},
            findings=tuple(Finding(name, "differs from the manifest's commit") for name in named),
            notes=tuple(notes),
            facts={"directory": str(tree), "key": digest, "changed": changed},
        ),
    )


def tree_digest(tree: Path, names: Iterable[str]) -> str:
    """SHA-256 over the names and contents of a tree's files, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(names):
        path = tree / name
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        digest.update(f"{len(name.encode())} {name} {len(content)} ".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _address(source: str) -> str:
    if is_address(source):
        return source
    path = Path(source).resolve()
    if not path.is_dir():
        raise AuditError(f"{source} is neither a directory nor an address that git can clone")
    return str(path)


def _settings(work: Path, *repositories: Path) -> dict[str, str]:
    """Settings of our own: git refuses repositories of other users, which an auditor's often are.

    ``safe.directory`` counts only in a file; with the environment's form the program at the other end of a local
    transport does not see it. A user's attributes are read whatever the other settings are, unless another file is
    named for them.
    """
    file = work / "git.config"
    places = [place for repository in repositories for place in (repository, repository / ".git")]
    safe = "".join(f"\tdirectory = {_quoted(str(place))}\n" for place in places)
    file.write_text(f"[core]\n\tattributesFile = {os.devnull}\n\texcludesFile = {os.devnull}\n[safe]\n{safe}")
    return {"GIT_CONFIG_GLOBAL": str(file)}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _has(programs: Programs, repository: Path, commit: str, environment: dict[str, str]) -> bool:
    command = ["git", "-C", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        programs.run(command, environment=environment, quiet=True)
    except UncheckedError:
        return False
    return True


def _changed(tree: Path, commit: str, programs: Programs, environment: dict[str, str]) -> list[str]:
    difference = programs.run(
        ["git", "-C", str(tree), "-c", "core.fsmonitor=false", "diff", "--no-ext-diff", "--name-only", "-z", commit],
        environment=environment,
    )
    new = programs.run(
        ["git", "-C", str(tree), "ls-files", "--others", "--exclude-standard", "-z"],
        environment=environment,
        quiet=True,
    )
    return sorted({name for name in (*difference.split("\0"), *new.split("\0")) if name})


def _names(tree: Path, programs: Programs, environment: dict[str, str]) -> list[str]:
    try:
        listed = programs.run(
            ["git", "-C", str(tree), "ls-files", "-co", "--exclude-standard", "-z"], environment=environment, quiet=True
        )
    except UncheckedError:
        return list(_walked(tree))
    return [name for name in listed.split("\0") if name]


def _walked(tree: Path) -> Iterator[str]:
    """Every file of a tree that is no repository, without what running leaves behind."""
    for path in tree.rglob("*"):
        parts = path.relative_to(tree).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield "/".join(parts)
