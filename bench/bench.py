#!/usr/bin/env python3
"""The gateway beside nginx and HAProxy from the distribution, in interleaved rounds on this machine.

    make bench                     the usual table
    bench/bench.py -r 9 -d 3       more rounds, longer ones
    bench/bench.py --path /16k     16 KiB answers; /1m: 1 MiB

The work: HTTP/1.1 keep-alive, 64 connections, a 1 KiB answer from a fast upstream. wxgate does everything it
does in production: verifies the session, strips forged identity headers, sets ours, removes its cookie, rebuilds
the forwarded headers, writes its access log (to /dev/null). HAProxy checks the same JWT; the plain rows check nothing.
Load and upstream run on core 0, the proxy on core 1. CPU per request (user + system of the proxy's process tree) is
the figure to trust: requests per second move with the machine. Needs wrk, nginx, haproxy and `cargo build --release`.
"""
import argparse, base64, hashlib, hmac, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
SECRET = "bench-secret-0123456789abcdef0123456789abcdef"
HOST = "app.example.com"
TICK = os.sysconf("SC_CLK_TCK")

args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("-r", type=int, default=7, help="rounds")
args.add_argument("-d", type=int, default=2, help="seconds a measurement")
args.add_argument("-c", type=int, default=64, help="connections")
args.add_argument("--path", default="/", choices=["/", "/16k", "/1m"])
args.add_argument("--wxgate", default=f"{HERE}/../target/release/wxgate")
args = args.parse_args()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def session():
    """The cookie wxgate would have set, so that the benchmark needs no login."""
    part = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    now = int(time.time())
    head = part(json.dumps({"typ": "JWT", "alg": "HS256", "kid": "b"}).encode())
    claims = {"iss": "wxgate", "aud": f"http://{HOST}", "sub": "o6_bmjrPTlm6_2sgVt7hMZOPfL2M",
              "unionid": "oWgGz1AbCdEfGhIjKlMnOpQrStUv", "nickname": "bench", "scope": "snsapi_userinfo", "sid": "7" * 32,
              "iat": now, "exp": now + 40000, "auth_time": now, "max": now + 600000, "appid": "wx0123456789abcdef"}
    message = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{message}.{part(hmac.new(SECRET.encode(), message.encode(), hashlib.sha256).digest())}"


def nginx_upstream(port, folder):
    open(f"{folder}/1m", "wb").write(b"a" * (1 << 20))
    open(f"{folder}/16k", "wb").write(b"a" * (16 << 10))
    open(f"{folder}/index.html", "wb").write(b"a" * 1024)
    return nginx(folder, "up", f"server {{ listen 127.0.0.1:{port}; root {folder}; open_file_cache max=10; location / {{ }} }}")


def nginx(folder, name, server):
    paths = " ".join(f"{kind}_temp_path {folder}/{name}-{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    conf = f"{folder}/{name}.conf"
    open(conf, "w").write(f"""daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log stderr crit; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; {paths} {server} }}""")
    return ["nginx", "-c", conf]


def nginx_plain(port, upstream, folder):
    return nginx(folder, "plain", f"""upstream app {{ server 127.0.0.1:{upstream}; keepalive 256; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }}""")


def haproxy(port, upstream, folder, rules=""):
    conf = f"{folder}/haproxy-{port}.cfg"
    open(conf, "w").write(f"""global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend fe
  bind 127.0.0.1:{port}
{rules}  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  default_backend app
backend app
  server a 127.0.0.1:{upstream}
""")
    return ["haproxy", "-f", conf, "-db"]


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


def wxgate(port, upstream, folder):
    conf = f"{folder}/wxgate.toml"
    open(conf, "w").write(f"""[server]
listen = ["127.0.0.1:{port}"]
workers = 1
[admin]
listen = "127.0.0.1:{free_port()}"
[session]
keys = [{{ id = "b", secret = "{SECRET}" }}]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = "unused"
[[site]]
hosts = ["{HOST}"]
public_url = "http://{HOST}"
account = "main"
upstream = ["http://127.0.0.1:{upstream}"]
""")
    return [args.wxgate, "serve", "--config", conf]


def cpu(pid):
    """Seconds of CPU that a process and its children have used."""
    total = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def start(command, port, core):
    # With the access log on: it goes to /dev/null, as does what the others say.
    process = subprocess.Popen(["taskset", "-c", core, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"{command[0]} did not start: {process.stderr.read().decode()}")
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    sys.exit(f"{command[0]} takes no connections on {port}")


def load(port, seconds):
    """Requests that were answered well, and the 99th percentile in milliseconds."""
    headers = [f"Host: {HOST}", f"Cookie: theme=dark; wxgate={COOKIE}; lang=zh_CN", "Accept: text/html", "X-WeChat-OpenId: forged",
               "User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) MicroMessenger/8.0.49", "Accept-Language: zh-CN"]
    command = ["taskset", "-c", "0", "wrk", "-t1", f"-c{args.c}", f"-d{seconds}s", "--latency"]
    for header in headers:
        command += ["-H", header]
    said = subprocess.run([*command, f"http://127.0.0.1:{port}{args.path}"], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"the load met errors:\n{said}")
    value, unit = re.search(r"99%\s+([\d.]+)(\w+)", said).groups()
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    return int(re.search(r"(\d+) requests in", said).group(1)), float(value) * scale


for tool in ["wrk", "nginx", "haproxy", "taskset"]:
    if not shutil.which(tool):
        sys.exit(f"{tool} is missing: apt-get install wrk nginx-light haproxy util-linux")
if os.cpu_count() < 2:
    sys.exit("needs two cores")

COOKIE = session()
folder = tempfile.mkdtemp(prefix="wxgate-bench-")
os.chmod(folder, 0o755)  # nginx's worker is another user
up = free_port()
upstream = start(nginx_upstream(up, folder), up, "0")
rows = {}
for name, build in [("nginx, plain", nginx_plain), ("HAProxy, plain", haproxy),
                    ("HAProxy, JWT", lambda p, u, f: haproxy(p, u, f, JWT)), ("wxgate", wxgate)]:
    port = free_port()
    rows[name] = {"port": port, "process": start(build(port, up, folder), port, "1"), "cpu": [], "rate": [], "p99": []}
try:
    for number in range(args.r + 1):  # the first round warms up
        for row in rows.values():
            before, began = cpu(row["process"].pid), time.time()
            answered, p99 = load(row["port"], args.d)
            used, took = cpu(row["process"].pid) - before, time.time() - began
            if number > 0:
                row["cpu"].append(used / answered * 1e6)
                row["rate"].append(answered / took)
                row["p99"].append(p99)
finally:
    for process in [upstream, *(row["process"] for row in rows.values())]:
        process.send_signal(signal.SIGTERM)
    for process in [upstream, *(row["process"] for row in rows.values())]:
        process.wait()
    shutil.rmtree(folder)

ratio = lambda row, ref: statistics.median(a / b for a, b in zip(row["cpu"], rows[ref]["cpu"]))
print(f"\n{args.r} rounds of {args.d} s, {args.c} connections, {args.path}\n")
print("| | CPU µs/request (min … max) | × HAProxy, JWT | × nginx, plain | requests/s | p99 ms |")
print("|---|--:|--:|--:|--:|--:|")
for name, row in rows.items():
    median = statistics.median
    print(f"| {name} | {median(row['cpu']):.1f} ({min(row['cpu']):.1f} … {max(row['cpu']):.1f}) | {ratio(row, 'HAProxy, JWT'):.2f} "
          f"| {ratio(row, 'nginx, plain'):.2f} | {median(row['rate']):.0f} | {median(row['p99']):.1f} |")
