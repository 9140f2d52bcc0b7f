"""The programs that are measured, and what stands around them: each on a free port, on a core of its
own, and stopped by its process id whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

HOST = "app.example.com"
SECURE_HOST = "secure.example.com"
SECRET = "bench-secret-0123456789abcdef0123456789abcdef"
# An address that no address stands behind: what `nginx return 302` sends visitors to.
AUTHORIZE = (
    "https://open.weixin.qq.com/connect/oauth2/authorize?appid=wx0123456789abcdef&redirect_uri="
    "http%3A%2F%2Fapp.example.com%2F_wx%2Fcallback&response_type=code&scope=snsapi_base"
    "&state=0123456789abcdef0123456789abcdef#wechat_redirect"
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A running program."""

    def __init__(self, name: str, command: list[str], port: int, cores: set[int], tls_port: int = 0):
        self.name, self.port, self.tls_port = name, port, tls_port
        self.config: Path | None = None
        self.reader: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        piped = name.startswith("wxgate")
        said = subprocess.PIPE if piped else subprocess.DEVNULL
        self.process = spawn(command, cores, stdout=said, stderr=subprocess.PIPE)
        if piped:  # the access log goes where a container's goes: into a pipe that somebody reads
            self.reader = spawn(["cat"], LOAD, stdin=self.process.stdout, stdout=subprocess.DEVNULL)
            assert self.process.stdout
            self.process.stdout.close()

    def ready(self) -> Server:
        for _ in range(4000):
            if self.process.poll() is not None:
                assert self.process.stderr
                sys.exit(f"{self.name} did not start: {self.process.stderr.read().decode()}")
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.005)
        sys.exit(f"{self.name} takes no connections on {self.port}")

    def _pids(self) -> list[int]:
        """Its own and those of its children, as nginx has them."""
        pids = [self.process.pid]
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid:
                    pids.append(int(entry))
        return pids

    def cpu(self) -> float:
        """Seconds of CPU it has used, in its own code and in the kernel."""
        nanoseconds = 0
        for pid in self._pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                # The scheduler's own account: `stat` tells hundredths of a second only.
                nanoseconds += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        return nanoseconds / 1e9

    def memory(self, what: str = "Pss:") -> float:
        """KiB of memory; `Rss:` counts shared pages too."""
        kib = 0
        for pid in self._pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(what):
                    kib += int(line.split()[1])
        return kib

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        if self.reader:
            self.reader.wait()


def spawn(command: list[str], cores: set[int], **streams) -> subprocess.Popen[bytes]:
    """A child on these cores. Out of the terminal's group: it is for us to stop it, not for Ctrl-C."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return subprocess.Popen(command, start_new_session=True, **streams)
    finally:
        os.sched_setaffinity(0, ours)


# Load and upstream share one core, what is measured has the other to itself.
CORES = sorted(os.sched_getaffinity(0))
LOAD, PROXY = {CORES[0]}, {CORES[-1]}


class Street:
    """A site, the emulated WeChat, and whatever stands in front of the site."""

    def __init__(self, folder: Path, program: str, stack: ExitStack):
        self.folder, self.program, self.stack = folder, program, stack
        self.running: dict[str, Server] = {}
        self._contents()
        self._certificate()
        key = folder / "key"
        key.touch(0o600)
        key.write_text(SECRET)
        self.upstream_http2 = free_port()
        self.upstream = self._start("upstream", *self._upstream(), cores=LOAD).port
        self.wechat = free_port()
        emulator = [program, "emulator", "--listen", f"127.0.0.1:{self.wechat}"]
        self._start("emulator", emulator, self.wechat, cores=LOAD)

    def _start(self, name: str, command: list[str], port: int, cores: set[int] = PROXY, tls: int = 0) -> Server:
        server = Server(name, command, port, cores, tls)
        self.stack.callback(server.stop)
        return server.ready()

    def known(self, name: str) -> Server:
        """One of the usual contenders, started when it is first asked for."""
        if name not in self.running:
            make = {
                "nginx": self.nginx,
                "HAProxy": lambda: self.haproxy("HAProxy"),
                "HAProxy, JWT": lambda: self.haproxy("HAProxy, JWT", JWT),
                "TCP": self.tcp,
                "wxgate": self.wxgate,
            }[name]
            self.running[name] = make()
        return self.running[name]

    def _contents(self) -> None:
        www = self.folder / "www"
        www.mkdir()
        for name, size in {"index.html": 1 << 10, "16k": 16 << 10, "1m": 1 << 20}.items():
            (www / name).write_bytes(b"a" * size)
        for name, size in {"16k": 16 << 10, "1m": 1 << 20}.items():
            (self.folder / f"upload-{name}.lua").write_text(
                f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'
            )

    def _certificate(self) -> None:
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out cert.pem"
        named = ["-subj", f"/CN={SECURE_HOST}", "-addext", f"subjectAltName=DNS:{SECURE_HOST}"]
        subprocess.run([*make.split(), *named], cwd=self.folder, check=True, capture_output=True)

    def _nginx(self, name: str, http: str) -> list[str]:
        at = f"{self.folder}/{name}"
        kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        temporary = " ".join(f"{kind}_temp_path {at}-{kind};" for kind in kinds)
        Path(f"{at}.conf").write_text(
            f"""daemon off; worker_processes 1; pid {at}.pid; error_log stderr crit;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0; {temporary}
{http} }}"""
        )
        return ["nginx", "-e", "stderr", "-c", f"{at}.conf"]

    def _upstream(self) -> tuple[list[str], int]:
        port = free_port()
        # An upload is read to its end before it is answered: hence the second step.
        http = f"""upstream self {{ server 127.0.0.1:{port}; keepalive 256; }}
server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{self.upstream_http2} http2; root {self.folder}/www; open_file_cache max=10;
  location = /seen {{ return 200 "$http_x_wechat_openid|$http_cookie|$http_x_forwarded_for"; }}
  location = /sink {{ client_body_buffer_size 2m; proxy_pass http://self/taken; proxy_http_version 1.1;
    proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header Connection "";
    proxy_set_header X-Taken $request_length; }}
  location = /static/protocol {{ return 200 "$server_protocol"; }}
  location = /taken {{ return 200 "$http_x_taken"; }}
  location / {{ try_files $uri /index.html; }} }}"""
        return self._nginx("upstream", http), port

    def nginx(self) -> Server:
        """Passes everything on, and asks nobody who they are."""
        port, tls = free_port(), free_port()
        http = f"""upstream app {{ server 127.0.0.1:{self.upstream}; keepalive 256; }}
ssl_certificate {self.folder}/cert.pem; ssl_certificate_key {self.folder}/key.pem;
ssl_protocols TLSv1.3;
server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;
  location = /first {{ return 302 "{AUTHORIZE}"; }}
  location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme; }} }}"""
        return self._start("nginx", self._nginx(f"nginx-{port}", http), port, tls=tls)

    def haproxy(self, name: str, rules: str = "") -> Server:
        forwarded = """  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
"""
        return self._haproxy(name, f"  mode http\n{rules}{forwarded}", "  mode http\n  http-reuse always\n")

    def tcp(self) -> Server:
        """Two sockets and no HTTP: what the kernel takes, whatever one does."""
        return self._haproxy("TCP", "  mode tcp\n", "  mode tcp\n")

    def _haproxy(self, name: str, front: str, back: str) -> Server:
        port = free_port()
        path = self.folder / f"haproxy-{port}.cfg"
        path.write_text(
            f"""global
  nbthread 1
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 60s
frontend fe
  bind 127.0.0.1:{port} backlog 4096
{front}  default_backend app
backend app
{back}  server a 127.0.0.1:{self.upstream}
"""
        )
        return self._start(name, ["haproxy", "-f", str(path), "-db"], port)

    def wxgate(self, workers: int = 1, cores: set[int] = PROXY, sites: int = 1, session: str = "") -> Server:
        """As it is shipped, everything on. Limits are where this load does not meet them."""
        server = self.starting(workers, cores, sites, session)
        self.stack.callback(server.stop)
        return server.ready()

    def starting(self, workers: int = 1, cores: set[int] = PROXY, sites: int = 1, session: str = "") -> Server:
        """The same, not waited for and for the caller to stop."""
        port, tls = free_port(), free_port()
        path = self.folder / f"wxgate-{port}.toml"
        path.write_text(self.config(port, tls, workers, session) + "".join(self.site(n) for n in range(1, sites)))
        command = [self.program, "serve", "--config", str(path)]
        server = Server("wxgate", command, port, cores, tls)
        server.config = path
        return server

    def config(self, port: int, tls: int, workers: int, session: str = "") -> str:
        wechat = f"http://127.0.0.1:{self.wechat}"
        return f"""[server]
listen = ["127.0.0.1:{port}"]
workers = {workers}
[server.tls]
listen = ["127.0.0.1:{tls}"]
certificates = [{{ cert = "cert.pem", key = "key.pem" }}]
[server.limits]
connections = 16000
idle_time = "1h"
logins_per_minute = 1000000
[admin]
listen = "127.0.0.1:{free_port()}"
[session]
keys = [{{ id = "bench", secret = {{ file = "key" }} }}]
{session}
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = {{ file = "key" }}
authorize_url = "{wechat}"
api_urls = ["{wechat}"]
""" + "".join(
            f"""[[site]]
hosts = ["{host}"]
public_url = "{scheme}://{host}"
account = "main"
upstream = ["http://127.0.0.1:{self.upstream}"]
[[site.route]]
path = "/static/*"
auth = "none"
[[site.route]]
path = "/member/*"
scope = "snsapi_userinfo"
[[site.route]]
path = "/news/*"
auth = "optional"
"""
            for scheme, host in [("http", HOST), ("https", SECURE_HOST)]
        )

    def site(self, number: int, *more: str) -> str:
        """One of many sites, with twenty routes."""
        hosts = ", ".join(f'"{host}"' for host in [f"site-{number}.example.com", *more])
        routes = "".join(f'[[site.route]]\npath = "/part-{n}/*"\nauth = "optional"\n' for n in range(20))
        return f"""[[site]]
hosts = [{hosts}]
public_url = "https://site-{number}.example.com"
account = "main"
upstream = ["http://127.0.0.1:{self.upstream}"]
{routes}"""


# HAProxy does with the same cookie what the gateway does, as far as its language goes.
JWT = f"""  http-request set-var(txn.jwt) req.cook(wxgate)
  http-request deny deny_status 401 unless {{ var(txn.jwt),jwt_verify("HS256","{SECRET}") 1 }}
  http-request set-var(txn.exp) var(txn.jwt),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 1 }}
  http-request deny deny_status 401 unless {{ var(txn.jwt),jwt_payload_query('$.iss') -m str wxgate }}
  http-request del-header X-WeChat- -m beg
  http-request set-header X-WeChat-OpenId %[var(txn.jwt),jwt_payload_query('$.sub')]
  http-request set-header X-WeChat-UnionId %[var(txn.jwt),jwt_payload_query('$.unionid')]
  http-request replace-header Cookie '(.*?)(?:;\\s*)?wxgate=[^;]*(.*)' '\\1\\2'
"""
