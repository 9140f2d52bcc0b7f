"""Renders the Kubernetes manifests as kubectl does, and holds every object against Kubernetes' own
schemas, and the config.toml inside against the gateway: python kubernetes.py WXGATE"""

import copy
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

VERSIONS = ["1.31", "1.37"]
# Beside this interpreter, from requirements.txt.
KUBECTL = pathlib.Path(sys.executable).parent / "kubectl"
HERE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"


def rendered(folder):
    output = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(output.stdout))


def of(objects, kind):
    (found,) = [it for it in objects if it["kind"] == kind]
    return found


def refused(thing):
    try:
        kubernetes_validate.validate(thing, VERSIONS[-1], strict=True)
    except kubernetes_validate.ValidationError:
        return True
    return False


def seconds(text):
    number, unit = text[:-1], text[-1]
    return int(number) * {"s": 1, "m": 60}[unit]


def check_config(program, objects):
    text = of(objects, "ConfigMap")["data"]["config.toml"]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "config.toml")
        file.write_text(text)
        container = of(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        names = [it["name"] for it in container["env"]]
        env = dict.fromkeys(names, "0123456789abcdef" * 4) | {"WXGATE_REDIS_URL": "redis://redis:6379", "PATH": os.environ["PATH"]}
        assert set(names) == {"WXGATE_SESSION_KEY", "WXGATE_APP_SECRET", "WXGATE_ADMIN_TOKEN", "WXGATE_REDIS_URL"}, names
        subprocess.run([program, "check", "--config", file], check=True, env=env, stdout=subprocess.DEVNULL)
    return tomllib.loads(text)


def check_agreement(config, objects):
    """What the manifests say of ports and patience is what the configuration says."""
    pod = of(objects, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    assert config["server"]["listen"] == [f"0.0.0.0:{ports['http']}"], ports
    assert config["admin"]["metrics_listen"] == f"0.0.0.0:{ports['metrics']}", ports
    # What can end sessions is reached from inside the pod alone, and needs the token there.
    assert config["admin"]["listen"].startswith("127.0.0.1:") and "token" in config["admin"]
    service = [it["targetPort"] for it in of(objects, "Service")["spec"]["ports"]]
    assert service == ["http"], f"the Service leads to {service}"
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > wait + seconds(config["server"]["drain"])
    # `workers = 0` is one thread for each CPU of the node where nothing limits it, and each takes memory.
    limits = container["resources"]["limits"]
    assert limits["cpu"].isdigit() and 1 <= int(limits["cpu"]) <= 16, limits
    assert container["resources"]["requests"].keys() == limits.keys(), "both are said of both"
    cache = config["session"].get("verified_cache", "64MiB")
    assert cache.endswith("MiB") and limits["memory"].endswith("Mi"), (cache, limits)
    assert 4 * int(cache[:-3]) <= int(limits["memory"][:-2]), "the cache leaves room for connections"
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}, probe


def main(program):
    seen = 0
    for folder in (HERE / "base", HERE / "overlays" / "example"):
        objects = rendered(folder)
        for thing in objects:
            for version in VERSIONS:
                kubernetes_validate.validate(copy.deepcopy(thing), version, strict=True)
                seen += 1
        check_agreement(check_config(program, objects), objects)
    # A schema that takes everything would show nothing.
    broken = copy.deepcopy(of(objects, "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert refused(broken), "a slip of the pen is not seen"
    del broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"]
    broken["spec"]["replicas"] = "three"
    assert refused(broken), "a word for a number is not seen"
    assert of(objects, "Deployment")["spec"]["replicas"] == 3
    assert of(objects, "Ingress")["metadata"]["namespace"] == "h5"
    print(f"kubernetes: {seen} objects are well formed, the configuration inside is good")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
