"""Holds deploy/observability against a gateway that runs: python observability.py WXGATE

promtool checks the rules and shows that each alert fires and stays quiet. Then a real Prometheus
scrapes a real gateway, with a Redis, a WeChat, a site that is well and one that is not, and visitors
who log in and fail to; every query of the dashboard and of the rules has to find something, and every
metric of the gateway has to be on the dashboard.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "observability"
TOOLS = ROOT / "tests" / "packages" / "promtool" / "usr" / "bin"
# What is empty as long as all is well.
# Nothing is wrong, no collector is configured, and nothing is ordered.
MAY_BE_EMPTY = {"What the status page says", "Spans for the collector", "Orders of certificates"}

CONFIG = """
[server]
listen = ["127.0.0.1:{http}"]
[server.tls]
listen = ["127.0.0.1:{tls}"]
certificates = [{{ cert = "cert.pem", key = "key.pem" }}]
[server.limits]
body_size = "1KiB"
[admin]
listen = "127.0.0.1:{admin}"
[session]
keys = [{{ id = "k1", secret = "0123456789abcdef0123456789abcdef" }}]
[store]
kind = "redis"
url = "redis://127.0.0.1:{redis}"
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = "any-secret"
authorize_url = "http://127.0.0.1:{wechat}"
api_urls = ["http://127.0.0.1:{wechat}"]
[[site]]
hosts = ["localhost"]
public_url = "http://localhost:{http}"
account = "main"
upstream = ["http://127.0.0.1:{site}"]
upstream_connections = 100
outside_wechat = "login:main"
[[site.route]]
path = "/static/*"
auth = "none"
[[site]]
hosts = ["dead.localhost"]
public_url = "http://dead.localhost:{http}"
account = "main"
upstream = ["http://127.0.0.1:{nobody}"]
[[site.route]]
path = "/*"
auth = "none"
"""

PROMETHEUS = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: wxgate
    static_configs: [{{ targets: ["127.0.0.1:{admin}"] }}]
"""


def free():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what, url):
    for _ in range(200):
        try:
            return get(url)
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{what} does not answer at {url}")


def promtool(*args):
    subprocess.run([TOOLS / "promtool", *args], check=True, cwd=HERE, stdout=subprocess.DEVNULL)


def rules():
    groups = yaml.safe_load((HERE / "rules.yml").read_text())["groups"]
    return {it["alert"]: it for group in groups for it in group["rules"]}


def check_rules():
    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", "rules.test.yml")
    names = [it["name"] for it in yaml.safe_load((HERE / "rules.test.yml").read_text())["tests"]]
    for alert, rule in rules().items():
        for behaviour in ("fires", "stays quiet"):
            assert f"{alert} {behaviour}" in names, f"nothing shows that {alert} {behaviour}"
        page = rule["annotations"]["runbook"].split("#")[0]
        assert (ROOT / page).is_file(), f"{alert}: there is no {page}"


def queries(dashboard):
    """Every query, with what Grafana would put in for its variables."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "30s")
            yield panel["title"], text.replace("$instance", ".*").replace("$site", ".*")


class World:
    """Everything that runs, with its ports and folder."""

    def __init__(self, program, folder):
        self.program, self.folder, self.running = program, pathlib.Path(folder), []
        self.port = {name: free() for name in ("http", "tls", "admin", "redis", "wechat", "site", "nobody", "prometheus")}

    def start(self, *command):
        log = open(self.folder / f"{len(self.running)}.log", "w")
        process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def open(self):
        port = self.port
        (self.folder / "config.toml").write_text(CONFIG.format(**port))
        (self.folder / "site").mkdir()
        (self.folder / "site" / "index.html").write_text("hello")
        (self.folder / "prometheus.yml").write_text(PROMETHEUS.format(rules=HERE / "rules.yml", **port))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", "key.pem", "-out", "cert.pem"],
            check=True, cwd=self.folder, stderr=subprocess.DEVNULL,
        )
        self.start("redis-server", "--port", str(port["redis"]), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder))
        self.start(sys.executable, "-m", "http.server", str(port["site"]), "--bind", "127.0.0.1", "--directory", "site")
        self.start(self.program, "emulator", "--listen", f"127.0.0.1:{port['wechat']}")
        self.gateway = self.start(self.program, "serve")
        until("the gateway", f"http://127.0.0.1:{port['admin']}/readyz")
        until("the emulated WeChat", f"http://127.0.0.1:{port['wechat']}/")
        self.start(TOOLS / "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                   f"--web.listen-address=127.0.0.1:{port['prometheus']}", "--log.level=warn")
        until("Prometheus", f"http://127.0.0.1:{port['prometheus']}/-/ready")

    def close(self):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()

    def curl(self, url, *more):
        subprocess.run(["curl", "-sk", "-o", os.devnull, "-A", "MicroMessenger", "-H", "Accept: text/html", *more, url], check=True)

    def visit(self):
        """One of everything that is counted."""
        home = f"http://localhost:{self.port['http']}"
        faults = f"http://127.0.0.1:{self.port['wechat']}/_emulator/faults"
        login = ["-L", "-c", str(self.folder / "jar"), "-b", str(self.folder / "jar")]
        self.curl(f"{home}/", *login)
        self.curl(f"{home}/static/")
        self.curl(f"https://localhost:{self.port['tls']}/static/")
        self.curl(f"{home}/", "-H", "Cookie: wxgate=forged")
        self.curl(f"{home}/static/", "--data-binary", "x" * 4096)
        self.curl(f"http://dead.localhost:{self.port['http']}/")
        subprocess.run(["curl", "-s", "-o", os.devnull, "-d", '{"at":"access_token","errcode":40029}', faults], check=True)
        (self.folder / "jar").unlink()
        self.curl(f"{home}/", *login)
        subprocess.run(["curl", "-s", "-o", os.devnull, "-X", "DELETE", faults], check=True)
        file = self.folder / "config.toml"
        good = file.read_text()
        for text in (good + "\nnonsense = 1\n", good):
            file.write_text(text)
            self.gateway.send_signal(signal.SIGHUP)
            time.sleep(0.3)

    def wait_for_scrapes(self):
        """Two more, so that a rate can be told of what was counted before."""
        count = lambda: self.ask("query", query='count_over_time(up{job="wxgate"}[5m])')["result"]
        before = int(count()[0]["value"][1]) if count() else 0
        for _ in range(200):
            now = count()
            if now and int(now[0]["value"][1]) >= before + 2:
                break
            time.sleep(0.1)
        up = self.ask("query", query='up{job="wxgate"}')["result"]
        assert up and up[0]["value"][1] == "1", f"Prometheus cannot read the metrics: {self.ask('targets')}"

    def metrics(self):
        return get(f"http://127.0.0.1:{self.port['admin']}/metrics")

    def ask(self, what, **parameters):
        query = urllib.parse.urlencode(parameters)
        answer = json.loads(get(f"http://127.0.0.1:{self.port['prometheus']}/api/v1/{what}?{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]


def families(text):
    """The names as queries write them: a counter ends in _total, a histogram in _bucket, an info in _info."""
    ends = {"counter": "_total", "histogram": "_bucket", "info": "_info"}
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    return {name + ends.get(kind, "") for name, kind in kinds}


def named(text):
    return set(re.findall(r"\bwxgate_\w+", text))


def compare_names(there, dashboard):
    on_board = set().union(*(named(text) for _, text in queries(dashboard)))
    in_rules = set().union(*(named(rule["expr"]) for rule in rules().values()))
    for place, names in (("the dashboard", on_board), ("the rules", in_rules)):
        assert names <= there, f"{place}: the gateway has no {sorted(names - there)}"
    assert there <= on_board, f"the dashboard does not show {sorted(there - on_board)}"


def ask_everything(world, dashboard):
    asked = 0
    for title, text in queries(dashboard):
        asked += 1
        found = world.ask("query", query=text)["result"]
        assert found or title in MAY_BE_EMPTY, f"the panel {title!r} is empty: {text}"
        # A label that does not exist is no error to Prometheus: it is just not in the answer.
        wanted = re.findall(r"\bby \(([^)]*)\)", text)
        labels = {label.strip() for label in wanted[0].split(",")} - {"le"} if wanted else set()
        for label in labels if found else ():
            assert any(label in it["metric"] for it in found), f"{title!r}: nothing has a label {label}: {text}"
    for group in world.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            for metric in named(rule["query"]):
                series = world.ask("series", **{"match[]": f'{{__name__="{metric}"}}'})
                used = set(re.findall(metric + r"\{([^}]*)\}", rule["query"]))
                for label in re.findall(r"(\w+)\s*[=!]~?", ",".join(used)):
                    assert not series or any(label in it for it in series), f"{rule['name']}: {metric} has no label {label}"
    return asked


def main(program):
    check_rules()
    dashboard = json.loads((HERE / "dashboard.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        world = World(program, folder)
        try:
            world.open()
            world.visit()
            world.wait_for_scrapes()
            world.visit()
            world.wait_for_scrapes()
            there = families(world.metrics())
            assert len(there) > 8, there
            compare_names(there, dashboard)
            asked = ask_everything(world, dashboard)
        except BaseException:
            for log in sorted(world.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}", file=sys.stderr)
            raise
        finally:
            world.close()
    print(f"observability: {len(rules())} alerts, {asked} queries, {len(there)} metrics agree")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
