"""An ordinary ``pip install .`` into a fresh virtual environment gives a working program.

The source tree is copied, so that nothing is found because it happens to lie there, and the
programs run far from it.  The dependencies come from the package index (or pip's cache), as
they do for a user, so a dependency that pyproject.toml forgets is noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("nuntwist", "twisted", "pyproject.toml", "README.md")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NUN_", "PYTHON", "VIRTUAL_ENV", "COV_"))
    }
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of programs of a fresh environment with nuntwist installed."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    made = run(sys.executable, "-m", "venv", place / "venv", cwd=place)
    assert made.returncode == 0, made.stderr
    pip = (place / "venv/bin/python", "-m", "pip", "--disable-pip-version-check")
    installed = run(*pip, "install", "--quiet", "--no-compile", source, cwd=place)
    assert installed.returncode == 0, installed.stderr
    consistent = run(*pip, "check", cwd=place)
    assert consistent.returncode == 0, consistent.stdout
    shutil.rmtree(source)
    return place / "venv/bin"


def test_twistd_finds_the_plugin(programs: Path, tmp_path: Path) -> None:
    listed = run(programs / "twistd", "--help", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert any(line.split()[:1] == ["nundb"] for line in listed.stdout.splitlines())
    # Twisted's own plugins are still there: its package was added to, not replaced.
    assert any(line.split()[:1] == ["web"] for line in listed.stdout.splitlines())


def test_twistd_explains_the_options(programs: Path, tmp_path: Path) -> None:
    explained = run(programs / "twistd", "nundb", "--help", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert "NUN_TCP_ADDR" in explained.stdout


def test_a_bad_setting_stops_it_with_one_sentence(programs: Path, tmp_path: Path) -> None:
    ended = run(programs / "twistd", "-n", "nundb", "--tcp-address", "0.0.0.0:1", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("--tcp-address asks to listen on")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_the_command_line_is_installed(programs: Path, tmp_path: Path) -> None:
    version = run(programs / "nun-db", "-V", cwd=tmp_path)
    assert version.returncode == 0, version.stderr
    assert version.stdout.strip()


def test_every_file_of_the_package_is_installed(programs: Path) -> None:
    (site,) = (programs.parent / "lib").glob("python*/site-packages")
    sources = {
        path.relative_to(ROOT)
        for path in (ROOT / "nuntwist").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = {str(path) for path in sources if not (site / path).exists()}
    assert missing == set()
    assert (site / "twisted/plugins/nuntwist_plugin.py").exists()
    assert not (site / "tests").exists()
    assert not (site / "benchmarks").exists()
