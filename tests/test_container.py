"""What an image promises, tested without an engine: a wheel in a clean environment, no torch, another user, a read-only folder, SIGTERM."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parent.parent
NOBODY = 65534
LARGEST = 480 << 20  # bytes of what is installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel and its extra `serve`."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    constraints = ROOT / "constraints.txt"
    subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[serve]"], check=True)
    for path in [folder, *folder.parents][:4]:
        path.chmod(0o755)
    return folder / "venv"


@pytest.mark.slow
def test_the_install_is_small_and_without_torch(installed):
    listed = subprocess.run([installed / "bin/python", "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in listed and "duckdb" not in listed
    packages = [path for path in (installed / "lib").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in packages) < LARGEST


def other_user(installed) -> dict[str, object]:
    """How to run as a user without rights. Skips where this one may not, or where that one cannot reach the interpreter."""
    if os.getuid() != 0:
        pytest.skip("only root may run as another user")
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    try:
        subprocess.run([installed / "bin/python", "-c", ""], check=True, **user)
    except OSError as error:
        pytest.skip(f"another user cannot reach the interpreter: {error}")
    return user


@pytest.mark.slow
@pytest.mark.parametrize("who", ["this user", "another"])
def test_a_read_only_folder_is_served_and_sigterm_ends_it(installed, world_folder, tmp_path_factory, who):
    user = other_user(installed) if who == "another" else {}
    place = shutil.copytree(world_folder / "bundle", tmp_path_factory.mktemp("mounted") / "bundle")
    for path in [*place.parents][:3]:
        path.chmod(0o755)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in place.rglob("*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = "a-key-from-the-environment"
    environment = {"PATH": "/usr/bin:/bin", "TWOTOWER_KEYS": key, "TMPDIR": "/nowhere", "HOME": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [installed / "bin/twotower", "serve", place, "--host", "0.0.0.0", "--port", str(port), "--watch"]
    running = subprocess.Popen(words, env=environment, cwd="/", stderr=subprocess.PIPE, text=True, **user)
    try:
        assert wait(port)
        body = json.dumps({"query": "subject3", "k": 3}).encode()
        asked = Request(f"http://127.0.0.1:{port}/search", body, {"content-type": "application/json", "authorization": f"Bearer {key}"})
        assert len(json.load(urlopen(asked, timeout=10))["results"]) == 3
        maps = Path(f"/proc/{running.pid}/maps").read_text() if Path("/proc").exists() else ""
        assert "libtorch" not in maps
    finally:
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 0, told
    assert "Traceback" not in told and "POST /search 200" in told
    assert sorted((str(path), path.stat().st_mtime_ns) for path in place.rglob("*")) == before


def wait(port: int) -> bool:
    """Whether it lives within half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return bool(urlopen(f"http://127.0.0.1:{port}/livez", timeout=2).status == 200)
        except OSError:
            time.sleep(0.1)
    return False


def test_what_the_image_runs_is_what_there_is():
    told = (ROOT / "Dockerfile").read_text()
    assert "USER 10001" in told and '[serve]"' in told and "/livez" in told and "train" not in told
    from typer.testing import CliRunner

    from twotower.app.cli import app

    entry = json.loads(told.split("ENTRYPOINT ")[1])
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    assert entry[:2] == ["twotower", "serve"] and all(word in shown for word in entry if word.startswith("--"))
