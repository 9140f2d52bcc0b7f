#!/usr/bin/env python3
"""What sizes a fleet: CPU of a request and of a login, Redis operations, memory of a connection, on this machine.

    cargo build --release && python3 bench/fleet.py

One gateway with one thread on core 1, with a Redis as its store; Redis, the site and the emulated WeChat on core 0.
Figures are the gateway's alone: CPU is user and system of its process, memory is its resident set (the kernel's socket
buffers are not in it). Needs redis-server, nginx, wrk, openssl and taskset.
"""
import asyncio, base64, hashlib, hmac, json, os, re, resource, secrets, shutil, signal, socket, ssl, subprocess, sys, tempfile, time
from urllib.parse import urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
WXGATE = sys.argv[1] if len(sys.argv) > 1 else f"{HERE}/../target/release/wxgate"
HOST = "app.example.com"
AGENT = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) MicroMessenger/8.0.49"
TICK = os.sysconf("SC_CLK_TCK")
LOGINS, CONNECTIONS, SECONDS = 2000, 4000, 5
SECRET = "bench-secret-0123456789abcdef0123456789abcdef"
# More sessions than the cache of verified cookies has room for, by default.
SESSIONS = 40_000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, port, core):
    process = subprocess.Popen(["taskset", "-c", core, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    sys.exit(f"{command[0]} did not start: {process.stderr.read().decode() if process.poll() is not None else 'silent'}")


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", open(f"/proc/{pid}/status").read()).group(1))


async def ask(port, target, headers, tls=None, keep=False):
    """One request; the status, the headers, and the connection where it is kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=HOST if tls else None)
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if not keep:
        lines.append("Connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    found = [line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line]
    if keep:
        length = next((int(value) for name, value in found if name.lower() == "content-length"), 0)
        await reader.readexactly(length)
        return int(head.split()[1]), found, (reader, writer)
    writer.close()
    return int(head.split()[1]), found, None


async def login(gateway, jar):
    """Comes as a stranger, goes to WeChat and comes back; `jar` then holds the session."""
    def headers():
        cookies = "; ".join(f"{name}={value}" for name, value in jar.items())
        return {"Host": HOST, "User-Agent": AGENT, "Accept": "text/html", **({"Cookie": cookies} if cookies else {})}

    port, target, named = gateway, "/", headers()
    for _ in range(6):
        status, found, _ = await ask(port, target, named)
        for name, value in found:
            if name.lower() == "set-cookie" and port == gateway:
                pair, _, rest = value.partition(";")
                key, _, text = pair.partition("=")
                jar.pop(key, None)
                if "Max-Age=0" not in rest:
                    jar[key] = text
        if status == 200:
            return
        url = urlsplit(next(value for name, value in found if name.lower() == "location"))
        if url.hostname == "127.0.0.1":
            port, named = url.port, {"Host": url.netloc, "User-Agent": AGENT}
        else:
            port, named = gateway, headers()
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    sys.exit(f"a login ended with {status}")


async def websocket_site(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    try:
        await reader.read()
    except (asyncio.CancelledError, ConnectionError):
        pass  # the end of the measurement


def redis_ask(port, *words):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall((" ".join(words) + "\r\n").encode())
        time.sleep(0.05)
        return s.recv(1 << 20).decode()


def operations(port):
    said = redis_ask(port, "INFO", "commandstats")
    return {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", said) if name not in ("info", "hello", "client")}


def without_checks(ops):
    """What a gateway sends at rest is no part of a login or a request: XRANGE, and one of each command of its write check.
    Nothing else here takes a value away, so that GETDEL counts the checks."""
    checks = ops.get("getdel", 0)
    left = {name: count - (checks if name in ("xadd", "pexpire", "xtrim", "set", "get", "getdel") else 0) for name, count in ops.items() if name != "xrange"}
    return {name: count for name, count in left.items() if count > 0}


def redis_memory(port):
    return int(re.search(r"used_memory:(\d+)", redis_ask(port, "INFO", "memory")).group(1))


def spent(before, after):
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def configuration(folder, gateway, tls, admin, redis, site, sockets, wechat):
    path = f"{folder}/wxgate.toml"
    open(path, "w").write(f"""[server]
listen = ["127.0.0.1:{gateway}"]
workers = 1
drain = "1s"
[server.tls]
listen = ["127.0.0.1:{tls}"]
certificates = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
[server.limits]
connections_per_client = 0
logins_per_minute = 0
idle_time = "10m"
[admin]
listen = "127.0.0.1:{admin}"
[session]
keys = [{{ id = "b", secret = "{SECRET}" }}]
[store]
kind = "redis"
url = "redis://127.0.0.1:{redis}"
[[account]]
name = "main"
app_id = "wx1"
app_secret = "secret-of-wx1"
authorize_url = "http://127.0.0.1:{wechat}"
api_urls = ["http://127.0.0.1:{wechat}"]
[[site]]
hosts = ["{HOST}"]
public_url = "http://{HOST}"
account = "main"
upstream = ["http://127.0.0.1:{site}"]
[[site.route]]
path = "/static/*"
auth = "none"
[[site]]
hosts = ["ws.example.com"]
public_url = "http://ws.example.com"
account = "main"
upstream = ["http://127.0.0.1:{sockets}"]
[[site.route]]
path = "/*"
auth = "none"
""")
    return path


def session():
    """The cookie of a visitor whose profile is known, signed as the gateway signs it."""
    part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    now, who = int(time.time()), secrets.token_urlsafe(19)
    claims = {
        "iss": "wxgate", "aud": f"http://{HOST}", "sub": f"o6_{who}"[:28], "unionid": f"oW_{who}"[:28], "nickname": "李雷",
        "avatar": f"https://thirdwx.qlogo.cn/mmopen/vi_32/{who}/132", "scope": "snsapi_userinfo", "sid": secrets.token_hex(16),
        "iat": now, "exp": now + 43_200, "auth_time": now, "max": now + 604_800, "appid": "wx1",
    }
    head = {"alg": "HS256", "typ": "JWT", "kid": "b"}
    text = b".".join(part(json.dumps(it, ensure_ascii=False, separators=(",", ":")).encode()) for it in (head, claims))
    return (text + b"." + part(hmac.digest(SECRET.encode(), text, hashlib.sha256))).decode()


async def show(gateway, count):
    """Shows so many sessions, each once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway)
    for at in range(0, count, 50):
        several = [f"HEAD / HTTP/1.1\r\nHost: {HOST}\r\nCookie: wxgate={session()}\r\n\r\n" for _ in range(min(50, count - at))]
        writer.write("".join(several).encode())
        for _ in several:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not head.startswith("HTTP/1.1 200"):
                sys.exit(f"a session was refused: {head}")
    writer.close()


async def connections(pid, count, open_one):
    """KiB of the gateway for each of so many, and the connections."""
    before, held = memory(pid), []
    for at in range(0, count, 100):
        held += await asyncio.gather(*(open_one() for _ in range(at, min(at + 100, count))))
    await asyncio.sleep(1)
    return (memory(pid) - before) / count, held


async def measure(gateway, tls, admin, redis, pid):
    jar, rows = {}, []
    for _ in range(100):
        jar = {}
        await login(gateway, jar)
    before, used, held = operations(redis), cpu(pid), redis_memory(redis)
    for _ in range(LOGINS // 8):
        await asyncio.gather(*(login(gateway, {}) for _ in range(8)))
    took, ops = cpu(pid) - used, spent(before, operations(redis))
    each = {name: count / LOGINS for name, count in without_checks(ops).items()}
    rows.append(("a silent login, three requests of the visitor", f"{took / LOGINS * 1e6:.0f} µs of CPU; Redis: " + ", ".join(f"{n:.2f} {k.upper()}" for k, n in each.items())
                 + f", and {(redis_memory(redis) - held) / LOGINS:.0f} bytes for two minutes"))

    cookie = f"wxgate={jar['wxgate']}"
    before, used = operations(redis), cpu(pid)
    command = ["taskset", "-c", "0", "wrk", "-t1", "-c64", f"-d{SECONDS}s", "-H", f"Host: {HOST}", "-H", f"Cookie: {cookie}", "-H", f"User-Agent: {AGENT}"]
    said = await asyncio.to_thread(subprocess.run, [*command, f"http://127.0.0.1:{gateway}/"], capture_output=True, text=True)
    if "Non-2xx" in said.stdout or "Socket errors" in said.stdout:
        sys.exit(said.stdout)
    answered = int(re.search(r"(\d+) requests in", said.stdout).group(1))
    each = (cpu(pid) - used) / answered
    ops = without_checks(spent(before, operations(redis)))
    rows.append(("a request with a session, 1 KiB", f"{each * 1e6:.1f} µs of CPU, so {1 / each:,.0f} a second and core; Redis: {ops or 'nothing'}"))

    before = operations(redis)
    used = cpu(pid)
    await asyncio.sleep(10)
    ops = spent(before, operations(redis))
    rows.append(("a replica that does nothing", f"{(cpu(pid) - used) * 100:.1f} ms of CPU a second; Redis: " + ", ".join(f"{n / 10:.1f} {k.upper()}/s" for k, n in ops.items())))

    at_rest = memory(pid) / 1024
    rows.append(("the process, before many connections", f"{at_rest:.0f} MiB"))
    await asyncio.gather(*(show(gateway, SESSIONS // 8) for _ in range(8)))
    full = memory(pid) / 1024
    rows.append((f"the same when {SESSIONS:,} sessions have come by, `verified_cache = \"64MiB\"`", f"{full:.0f} MiB"))
    plain = {"Host": HOST, "User-Agent": AGENT, "Cookie": cookie}
    each, held = await connections(pid, CONNECTIONS, lambda: ask(gateway, "/", plain, keep=True))
    rows.append((f"one of {CONNECTIONS} idle connections, HTTP/1.1", f"{each:.1f} KiB"))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    each, more = await connections(pid, CONNECTIONS // 2, lambda: ask(tls, "/", plain, tls=context, keep=True))
    rows.append((f"one of {CONNECTIONS // 2} with TLS", f"{each:.1f} KiB"))
    upgrade = {"Host": "ws.example.com", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    each, even_more = await connections(pid, CONNECTIONS // 2, lambda: ask(gateway, "/", upgrade, keep=True))
    statuses = {status for status, _, _ in even_more}
    rows.append((f"one of {CONNECTIONS // 2} WebSockets, both ends", f"{each:.1f} KiB" if statuses == {101} else f"failed: {statuses}"))
    # The formula of deploy/SCALING.md.
    formula = 20 + 64 + (CONNECTIONS * 2 + CONNECTIONS // 2 * 10 + CONNECTIONS // 2 * 20) / 1024
    rows.append(("all of that at once", f"{memory(pid) / 1024:.0f} MiB; by the formula {formula:.0f} MiB"))
    for _, _, (_, writer) in held + more + even_more:
        writer.transport.abort()
    return rows


async def main():
    for tool in ["redis-server", "nginx", "wrk", "openssl", "taskset"]:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = tempfile.mkdtemp(prefix="wxgate-fleet-")
    os.chmod(folder, 0o755)  # nginx's worker is another user
    open(f"{folder}/index.html", "wb").write(b"a" * 1024)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
                    "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"], check=True, capture_output=True)
    gateway, tls, admin, redis, site, sockets, wechat = (free_port() for _ in range(7))
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    open(f"{folder}/nginx.conf", "w").write(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit; events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 1000000000; {paths} server {{ listen 127.0.0.1:{site}; root {folder}; open_file_cache max=10; location / {{ }} }} }}""")
    server = await asyncio.start_server(websocket_site, "127.0.0.1", sockets, backlog=4096)
    file = configuration(folder, gateway, tls, admin, redis, site, sockets, wechat)
    processes = [
        start(["redis-server", "--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--appendonly", "yes", "--dir", folder], redis, "0"),
        start(["nginx", "-c", f"{folder}/nginx.conf"], site, "0"),
        start([WXGATE, "emulator", "--listen", f"127.0.0.1:{wechat}"], wechat, "0"),
        start([WXGATE, "serve", "--config", file], gateway, "1"),
    ]
    try:
        rows = await measure(gateway, tls, admin, redis, processes[-1].pid)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        shutil.rmtree(folder)
        server.close()
    print("\n| what | seen |\n|---|---|")
    for what, seen in rows:
        print(f"| {what} | {seen} |")


asyncio.run(main())
