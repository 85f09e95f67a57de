"""A PostgreSQL server of the tests' own, on loopback, started and stopped at will."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

# Not `synchronous_commit=off`: what was committed must be there after an immediate stop.
FAST = "fsync=off full_page_writes=off shared_buffers=32MB"


def pg_ctl() -> Path | None:
    """The program, where it is installed."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve()
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return installed[-1] if installed else None


class Server:
    """One server in a folder of its own."""

    def __init__(self) -> None:
        program = pg_ctl()
        if program is None:
            pytest.skip("PostgreSQL is not installed (apt install postgresql)")
        self._bin = program.parent
        # Not in pytest's own folder: that is closed to the user the server runs as.
        self._root = Path(tempfile.mkdtemp(prefix="tunewise-pg-"))
        self._as: list[str] = []
        if os.getuid() == 0:
            # The server refuses to run as root.
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                shutil.rmtree(self._root)
                pytest.skip("the tests run as root, and there is no user postgres")
            os.chown(self._root, user.pw_uid, user.pw_gid)
            self._as = ["runuser", "-u", "postgres", "--"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        # Where the tests are killed, nobody is left to stop it but this.
        after = f"while kill -0 {os.getpid()} 2>/dev/null; do sleep 1; done; "
        after += f"{shlex.join([*self._as, str(self._bin / 'pg_ctl')])} "
        after += f"-D {self._data} -m immediate -w stop; rm -rf {self._root}"
        self._watch = subprocess.Popen(
            ["sh", "-c", after],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._run("initdb", "-D", self._data, "-U", "tunewise", "-A", "trust", "-N")

    @property
    def _data(self) -> str:
        return str(self._root / "data")

    @property
    def url(self) -> str:
        """Of its one database."""
        return f"postgresql://tunewise@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Run; returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._root}"
        options += "".join(f" -c {each}" for each in FAST.split())
        log = str(self._root / "log")
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop at once, whatever is going on."""
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop", check=False)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All its processes are halted; the machine below still takes what is sent to them."""
        first = psutil.Process(int(Path(self._data, "postmaster.pid").read_text().split()[0]))
        processes = [first, *first.children(recursive=True)]
        # A worker may have ended by then.
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.suspend()
        try:
            yield
        finally:
            for each in processes:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def remove(self) -> None:
        """Stop it and take its files away."""
        self._watch.kill()
        self._watch.wait()
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *arguments],
            check=False,
            # A server that holds a pipe of ours open would keep us waiting for its end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._root,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{program} {arguments}: {done.returncode}"


def emptied(url: str) -> str:
    """The same database, with nothing in it."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with engine.begin() as connection:
        # Whoever an earlier test left behind may hold what is to go.
        connection.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        )
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url
