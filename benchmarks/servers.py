"""Real servers on loopback: nginx for HTTP, JuiceFS's gateway for S3."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
JUICEFS = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
S3_KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something"}

NGINX_CONFIG = """
user root;
daemon off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def find_port() -> int:
    """Return a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_listens(port: int, *, seconds: float = 30) -> None:
    """Wait for a server on loopback; raises RuntimeError if nothing listens in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextmanager
def run_nginx(root: Path, folder: Path) -> Iterator[int]:
    """Serve `root`; yield the port."""
    assert NGINX is not None
    folder.mkdir()
    port = find_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, root=root, port=port))
    with subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)]) as process:
        try:
            wait_until_it_listens(port)
            yield port
        finally:
            process.terminate()


@contextmanager
def run_s3(folder: Path) -> Iterator[int]:
    """Run an S3 server; yield the port."""
    assert JUICEFS is not None
    folder.mkdir()
    port = find_port()
    database = f"sqlite3:///{folder}/meta.db"
    format_command = [JUICEFS, "format", "--storage", "file", "--bucket", f"{folder}/store", database, "test"]
    subprocess.run(format_command, check=True, capture_output=True, timeout=60)
    keys = dict(zip(["MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"], S3_KEYS.values(), strict=True))
    command = [JUICEFS, "gateway", database, f"127.0.0.1:{port}", "--multi-buckets", "--cache-dir", f"{folder}/cache"]
    with subprocess.Popen(
        command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until_it_listens(port)
            yield port
        finally:
            process.kill()
