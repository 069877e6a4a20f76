"""What /openapi.json says is so: schemathesis asks by it, and by what it forbids, and finds no answer that it does not tell of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import serving

EXAMPLES = int(os.environ.get("TWOTOWER_SCHEMA_EXAMPLES", "8"))  # an operation
# What a filter may say, which columns a model reads and which ids there are is no matter of a schema: what does not fit them is 422 or 404. And
# what is against the schema may be too large besides.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 404, 422, 429, 503]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 408, 413, 415, 422, 429, 431, 503]
"""


@pytest.mark.slow
def test_nothing_is_answered_that_is_not_described(world_folder, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    program = Path(sys.executable).with_name("schemathesis")
    with serving(world_folder) as called:
        words = [
            program,
            "run",
            f"{called.url}/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            str(EXAMPLES),
            "--no-color",
            "--generation-deterministic",
        ]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Selected: 10/10" in done.stdout
        statuses = [
            line.split('status="')[1][:3]
            for line in called.ask("GET", "/metrics").body.decode().splitlines()
            if line.startswith("twotower_requests_total")
        ]
        assert {"200", "422"} <= set(statuses) and not {status for status in statuses if status.startswith("5")}
