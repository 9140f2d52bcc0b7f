"""The load generators of the distribution: wrk as fast as it goes, h2load at a steady rate."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from servers import HOST, LOAD, SECURE_HOST, Server, spawn
from visitor import HEADERS, cookie_header


@dataclass
class Answered:
    """What a load got to see."""

    requests: int
    seconds: float
    p99: float  # milliseconds
    slowest: float = 0.0


@dataclass
class Load:
    """One kind of work."""

    path: str = "/"
    session: str = ""
    secure: bool = False
    connections: int = 64
    script: Path | None = None
    host: str = ""
    more: dict[str, str] = field(default_factory=dict)

    def headers(self) -> list[str]:
        host = self.host or (SECURE_HOST if self.secure else HOST)
        all_of_them = {"Host": host, **HEADERS, **self.more}
        if self.session:
            all_of_them["Cookie"] = cookie_header(self.session, self.secure)
        return [f"{name}: {value}" for name, value in all_of_them.items()]

    def url(self, server: Server) -> str:
        if self.secure:
            return f"https://127.0.0.1:{server.tls_port}{self.path}"
        return f"http://127.0.0.1:{server.port}{self.path}"


MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def wrk(server: Server, load: Load, seconds: float) -> Answered:
    command = ["wrk", "-t1", f"-c{load.connections}", "-d600s", "--latency", "--timeout", "10s"]
    for header in load.headers():
        command += ["-H", header]
    if load.script:
        command += ["-s", str(load.script)]
    process = spawn([*command, load.url(server)], LOAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        # It takes whole seconds only; but told to stop, it says what it has seen so far.
        time.sleep(seconds)
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            try:
                said = process.communicate(timeout=1)[0].decode()
                break
            except subprocess.TimeoutExpired:
                continue  # it was still reading its script, and then went to sleep
        else:
            sys.exit(f"{server.name}{load.path}: the load does not stop")
    finally:
        process.kill()
        process.wait()
    total = re.search(r"(\d+) requests in ([\d.]+)(\w+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(\w+)", said)
    if "Non-2xx" in said or "Socket errors" in said or not total or not p99 or total.group(1) == "0":
        sys.exit(f"{server.name}{load.path}: the load met errors:\n{said}")
    took = float(total.group(2)) * MILLISECONDS[total.group(3)] / 1000
    return Answered(int(total.group(1)), took, float(p99.group(1)) * MILLISECONDS[p99.group(2)])


def steady(server: Server, load: Load, seconds: float, log: Path, rate: float) -> Answered:
    """So many requests a second. Each is sent when it is due, unless the answer before it on the same
    connection is still on its way: the rate of one connection is so low that this is rare."""
    count = max(round(rate * seconds / load.connections), 1) * load.connections
    some = ["--h1", f"-c{load.connections}", f"-n{count}", "--rps", f"{rate / load.connections:.3f}"]
    return _h2load(server, load, some, log)


def strangers(server: Server, load: Load, seconds: float, log: Path, rate: int = 1000) -> Answered:
    """So many new clients a second, one request each. wrk, and h2load on a second connection of the same
    client, would take up their TLS session again, and nobody would see a full handshake."""
    count = max(round(rate * seconds), 10)
    each = ["--h1", f"-c{count}", f"-n{count}", "-r", str(max(rate // 25, 1)), "--rate-period=40ms"]
    return _h2load(server, load, each, log)


def multiplexed(server: Server, load: Load, seconds: float, log: Path) -> Answered:
    """Over HTTP/2 as fast as it goes: eight requests at once on each connection. For whole seconds."""
    at_once = [f"-c{max(load.connections // 8, 1)}", "-m8", f"-D{max(round(seconds), 1)}"]
    return _h2load(server, load, at_once, log)


def _h2load(server: Server, load: Load, how: list[str], log: Path) -> Answered:
    log.unlink(missing_ok=True)
    port = server.tls_port if load.secure else server.port
    command = ["h2load", "-t1", f"--log-file={log}", f"--connect-to=127.0.0.1:{port}", *how]
    host, *others = load.headers()
    for header in others:
        command += ["-H", header]
    # With a `Host` among the headers it would send two.
    url = f"{'https' if load.secure else 'http'}://{host.removeprefix('Host: ')}{load.path}"
    process = spawn([*command, url], LOAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()
        process.wait()
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    took = re.search(r"finished in ([\d.]+)(us|ms|s|m)", said)
    good = " 0 failed, 0 errored" in said and " 0 4xx, 0 5xx" in said
    if not lines or not took or not good:
        sys.exit(f"{server.name}{load.path}: the load met errors:\n{said}")
    times = sorted(int(line[2]) / 1000 for line in lines)
    seconds = float(took.group(1)) * MILLISECONDS[took.group(2)] / 1000
    return Answered(len(times), seconds, times[len(times) * 99 // 100], times[-1])


def each_in_turn(folder: Path, sessions: list[str]) -> Path:
    """A script for wrk that shows one session after the other."""
    tokens, script = folder / "sessions", folder / "sessions.lua"
    tokens.write_text("\n".join(sessions) + "\n")
    script.write_text(
        f"""local requests, at = {{}}, 0
function init()
  for session in io.lines("{tokens}") do
    local headers = {{}}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    headers["Cookie"] = "theme=dark; wxgate=" .. session .. "; lang=zh_CN"
    requests[#requests + 1] = wrk.format(nil, nil, headers)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""
    )
    return script
