"""`deploy/kubernetes` is valid, fits together, and says of each process what compose.yaml and the settings say."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes_validate")

import kubernetes_validate

from router.cli.models import FULL_MODELS
from router.cli.specs import STOP_MARGIN_S
from router.settings import Settings
from tests.docs.pages import ALL, Page
from tests.test_compose import SERVICES, parse_command

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
COMPONENT = "app.kubernetes.io/component"
ROUTER = ("api", "worker", "worker-owl2", "worker-light")
ENGINES = ("glm", "owl2")
VERSIONS = ("1.33", kubernetes_validate.latest_version())
SIZES = {"Mi": 2**20, "Gi": 2**30}
# Namespaces whose Prometheus asks engines.
OUTSIDE = [{"namespaceSelector": {"matchLabels": {"glowl-metrics": "true"}}}]
kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    """What is in a file, lists taken apart."""
    found: list[Document] = []
    for document in yaml.safe_load_all(path.read_text("utf-8")):
        found += document["items"] if document["kind"] == "List" else [document]
    return found


def kustomization(name: str) -> Document:
    loaded: Document = yaml.safe_load((FOLDER / name / "kustomization.yaml").read_text("utf-8"))
    return loaded


BASE = [document for name in kustomization("base")["resources"] for document in documents(FOLDER / "base" / name)]
SECRET = documents(FOLDER / "secrets.example.yaml")[0]
OTHERS = [*documents(FOLDER / "gpu/models.yaml"), *documents(FOLDER / "ingress/ingress.yaml"), SECRET]
OTHERS += documents(FOLDER / "kept/volume.yaml")
SETTINGS = dict(
    line.split("=", 1) for line in (FOLDER / "base/settings.env").read_text().splitlines() if line[0] != "#"
)


def named(kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in BASE if document["kind"] == kind}


PODS: dict[str, Document] = {
    name: each["spec"]["template"] for kind in ("Deployment", "StatefulSet") for name, each in named(kind).items()
}
EACH_POD = pytest.mark.parametrize("name", PODS)


def container(name: str) -> Document:
    (only,) = PODS[name]["spec"]["containers"]
    return dict(only)


def env(name: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(name).get("env", ())}


def to_bytes(size: str) -> int:
    return int(size[:-2]) * SIZES[size[-2:]]


def ids(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [*BASE, *OTHERS], ids=ids)
def test_every_document_is_valid(document: Document, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("wrong", [{"replica": 2}, {"replicas": "two"}], ids=str)
def test_a_wrong_field_would_be_noticed(wrong: Document) -> None:
    document = copy.deepcopy(named("Deployment")["api"])
    document["spec"] |= wrong
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_every_file_is_used() -> None:
    for folder in ("base", "gpu", "ingress", "kept"):
        made = kustomization(folder)
        used = [name for name in made["resources"] if not name.startswith("..")]
        used += [patch["path"] for patch in made.get("patches", ())]
        used += [name for each in made.get("configMapGenerator", ()) for name in each.get("envs", ())]
        assert {*used, "kustomization.yaml"} == {path.name for path in (FOLDER / folder).iterdir()}


def test_the_processes_are_those_of_compose() -> None:
    assert set(PODS) == {*ROUTER, *ENGINES, "redis"}


@EACH_POD
def test_every_selector_finds_its_pods(name: str) -> None:
    labels = PODS[name]["metadata"]["labels"]
    owner = named("StatefulSet" if name == "redis" else "Deployment")[name]
    assert owner["spec"]["selector"]["matchLabels"] == labels == {COMPONENT: name}


def test_prometheus_finds_every_api_also_one_that_drains() -> None:
    each, all_of_them = (dict(named("Service")[name]["spec"]) for name in ("apis", "api"))
    assert (each.pop("clusterIP"), each.pop("publishNotReadyAddresses")) == ("None", True)
    assert each == all_of_them


@pytest.mark.parametrize("name", ["api", *ENGINES, "redis"])
def test_services_lead_to_the_ports_where_their_pods_listen(name: str) -> None:
    service = named("Service")[name]["spec"]
    assert service["selector"] == {COMPONENT: name}
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    assert [(port["targetPort"], port["port"]) for port in service["ports"]] == list(ports.items())
    if name != "redis":
        assert parse_command(container(name)["args"])["port"] in ports.values()


def test_settings_lead_to_services() -> None:
    services = {name: service["spec"]["ports"][0]["port"] for name, service in named("Service").items()}
    for engine in ENGINES:
        assert SETTINGS[f"GLOWL_{engine.upper()}_URL"] == f"http://{engine}:{services[engine]}"
    for name in ROUTER:
        assert env(name)["REDIS_URL"] == f"redis://:$(REDIS_PASSWORD)@redis:{services['redis']}/0"
        # A variable is known to those behind it only
        assert list(env(name)).index("REDIS_PASSWORD") < list(env(name)).index("REDIS_URL")


def test_the_network_lets_through_what_is_asked_for_and_nothing_else() -> None:
    policies = {name: policy["spec"] for name, policy in named("NetworkPolicy").items()}
    assert policies.pop("nobody") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    reached: dict[str, set[str]] = {}
    for key, policy in policies.items():
        (rule,) = policy["ingress"]
        peers = [each for each in rule.get("from", ()) if "podSelector" in each]
        assert [each for each in rule.get("from", ()) if each not in peers] == (OUTSIDE if key == "engines" else [])
        froms = {name for each in peers for name in _components(each["podSelector"])}
        for name in _components(policy["podSelector"]):
            reached[name] = froms
            assert [port["port"] for port in rule["ports"]] == [port["name"] for port in container(name)["ports"]]
    assert reached == {"api": set(), **{name: set(ROUTER) for name in (*ENGINES, "redis")}}


def _components(selector: Document) -> list[str]:
    if "matchLabels" in selector:
        return [selector["matchLabels"][COMPONENT]]
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["operator"]) == (COMPONENT, "In")
    return list(expression["values"])


def test_one_api_is_left_when_nodes_are_emptied() -> None:
    budget = named("PodDisruptionBudget")["api"]["spec"]
    assert budget["selector"]["matchLabels"] == {COMPONENT: "api"}
    assert budget["minAvailable"] < named("Deployment")["api"]["spec"]["replicas"]


@pytest.mark.parametrize("name", [*ROUTER, *ENGINES])
def test_commands_and_images_are_those_of_compose(name: str) -> None:
    service = SERVICES[name]
    assert parse_command(container(name)["args"]) == parse_command(shlex.split(service["command"]))
    tags = {image["name"]: image["newTag"] for image in kustomization("base")["images"]}
    image = container(name)["image"]
    assert f"{image}:{tags[image]}".removesuffix(":latest") == service["image"]


def test_redis_keeps_what_it_acknowledged_as_in_compose() -> None:
    args = container("redis")["args"]
    options = dict(zip(args[::2], args[1::2], strict=True))
    limit = options.pop("--maxmemory")
    written = shlex.split(SERVICES["redis"]["command"])
    assert options == dict(zip(written[::2], written[1::2], strict=True))
    assert container("redis")["image"] == SERVICES["redis"]["image"]
    # A file that is written anew needs as much again, and the container is killed beyond its own limit
    assert 2 * int(limit.removesuffix("gb")) * 2**30 <= to_bytes(container("redis")["resources"]["limits"]["memory"])


@pytest.mark.parametrize(("password", "starts"), [("s3cretLetters", True), ("", False), ("a b", False), ("a@b", False)])
def test_redis_starts_with_a_password_alone_that_fits_into_a_url(tmp_path: Path, password: str, starts: bool) -> None:
    # Given a server that shows its file and its options
    server = tmp_path / "valkey-server"
    server.write_text('#!/bin/sh\ncat "$1"\nshift\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    (tmp_path / "redis_password").write_text(password)
    script = [word.replace("/run/secrets/glowl", str(tmp_path)) for word in container("redis")["command"]]
    script = [word.replace("/tmp/redis.conf", str(tmp_path / "redis.conf")) for word in script]
    # When the container begins
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*script, "--dir", "/data"], env=path, capture_output=True, text=True, check=False)
    # Then
    assert (done.returncode == 0) is starts
    assert done.stdout.splitlines() == ([f"requirepass {password}", "--dir", "/data"] if starts else [])
    assert ("redis_password" in done.stderr) is not starts


@pytest.mark.parametrize("name", ROUTER)
def test_every_variable_is_one_the_service_reads(name: str) -> None:
    assert {"REDIS_PASSWORD"} == set(env(name)) - Settings.variables()
    (source,) = container(name)["envFrom"]
    (made,) = kustomization("base")["configMapGenerator"]
    assert source == {"configMapRef": {"name": made["name"]}}


def test_the_settings_are_ones_that_the_service_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    (merged,) = kustomization("ingress")["configMapGenerator"]
    for name, value in {**SETTINGS, **dict(each.split("=", 1) for each in merged["literals"])}.items():
        assert name in Settings.variables()
        monkeypatch.setenv(name, value)
    settings = Settings()
    # Then what may end gets the time for it
    for name in ROUTER:
        needed = settings.drain_s + settings.drain_notice_s + STOP_MARGIN_S
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("name", ROUTER)
def test_secrets_are_files_and_each_process_gets_its_own_alone(name: str) -> None:
    secrets = yaml.safe_load((ROOT / "deploy/compose.secrets.yaml").read_text("utf-8"))["services"][name]["environment"]
    files = {variable: path for variable, path in env(name).items() if variable.endswith("_FILE")}
    # The redis of the manifests has its address there, and its password from the secret
    assert set(files) == set(secrets) - {"REDIS_URL_FILE"}
    (volume,) = [each["secret"] for each in PODS[name]["spec"]["volumes"] if "secret" in each]
    (mount,) = [each["mountPath"] for each in container(name)["volumeMounts"] if each["name"] == "secrets"]
    assert set(files.values()) == {f"{mount}/{item['path']}" for item in volume["items"]}
    # An owner of the files is root; their group is the pods'
    assert (volume["defaultMode"], PODS[name]["spec"]["securityContext"]["fsGroup"]) == (0o440, 10001)


def test_the_example_of_the_secret_has_every_key_and_no_secret() -> None:
    assert set(SECRET["stringData"].values()) == {""}
    assert SECRET["metadata"]["namespace"] == kustomization("base")["namespace"] == next(iter(named("Namespace")))
    wanted = {key for pod in PODS.values() for key in _secret_keys(pod, SECRET["metadata"]["name"])}
    assert wanted == set(SECRET["stringData"])


def _secret_keys(node: Any, secret: str) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _secret_keys(each, secret)
    elif isinstance(node, dict):
        if "secretName" in node:
            assert node["secretName"] == secret
            yield from (item["key"] for item in node["items"])
        elif "secretKeyRef" in node:
            assert node["secretKeyRef"]["name"] == secret
            yield node["secretKeyRef"]["key"]
        else:
            yield from _secret_keys(list(node.values()), secret)


@EACH_POD
def test_no_container_has_rights_or_writes_to_its_image(name: str) -> None:
    pod = PODS[name]["spec"]
    context = container(name)["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    user, group = SERVICES["redis"]["user"].split(":") if name == "redis" else ("10001", "10001")
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert not pod["automountServiceAccountToken"]
    # Else redis' service would be a variable REDIS_PORT of every process
    assert not pod["enableServiceLinks"]
    assert {"name": "tmp", "mountPath": "/tmp"} in container(name)["volumeMounts"]
    volumes = {each["name"] for each in pod["volumes"]} | ({"data"} if name == "redis" else set())
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes


@EACH_POD
def test_probes_ask_what_compose_asks(name: str) -> None:
    probes = {kind: probe for kind, probe in container(name).items() if kind.endswith("Probe")}
    assert "livenessProbe" in probes
    check = SERVICES[name]["healthcheck"]["test"][1:]
    for probe in probes.values():
        if "httpGet" in probe:
            assert probe["httpGet"]["port"] in {port["name"] for port in container(name)["ports"]}
            assert probe["httpGet"]["path"] == ("/healthz" if name == "api" else check[-1])
        elif name != "redis":
            assert probe["exec"]["command"] == check


@pytest.mark.parametrize("name", ENGINES)
def test_the_real_models_are_started_as_in_compose_and_fit_their_volumes(name: str) -> None:
    (patch,) = documents(FOLDER / "gpu" / f"{name}.yaml")
    (changed,) = patch["spec"]["template"]["spec"]["containers"]
    assert (patch["metadata"]["name"], changed["name"]) == (name, container(name)["name"])
    started, in_compose = parse_command(changed["args"]), parse_command(shlex.split(SERVICES[f"{name}-gpu"]["command"]))
    # Here each has a GPU of its own; in compose they share one unless told otherwise.
    shares = started.pop("gpu_share"), in_compose.pop("gpu_share")
    assert shares[0] == "0.9"
    assert "GPU_SHARE:-auto" in shares[1] or shares[1] == "auto"
    assert started == in_compose
    claims = {each["metadata"]["name"]: each["spec"] for each in documents(FOLDER / "gpu/models.yaml")}
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    claim = claims[volume["persistentVolumeClaim"]["claimName"]]
    assert to_bytes(claim["resources"]["requests"]["storage"]) > 1.5 * FULL_MODELS[name].size_bytes
    (image,) = kustomization("gpu")["images"]
    assert f"{image['name']}:{image['newTag']}" == SERVICES[f"{name}-gpu"]["image"]


def test_kept_answers_have_a_volume_where_the_settings_look() -> None:
    (patch,) = documents(FOLDER / "kept/api.yaml")
    (mount,) = patch["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    (claim,) = documents(FOLDER / "kept/volume.yaml")
    assert (mount["name"], volume["persistentVolumeClaim"]["claimName"]) == (volume["name"], claim["metadata"]["name"])
    assert f"loop:{mount['mountPath']}" in SERVICES["api"]["volumes"]
    # The volume is one pod's: there is never a second one, and the first may leave its node
    assert (patch["spec"]["replicas"], patch["spec"]["strategy"]["type"]) == (1, "Recreate")
    (budget,) = documents(FOLDER / "kept/budget.yaml")
    assert budget["metadata"] == {"name": "api"}
    assert budget["spec"]["minAvailable"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_adapters_are_named_as_in_compose(engine: str) -> None:
    (patch,) = documents(FOLDER / f"gpu/{engine}.yaml")
    names = {each["name"] for each in patch["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert f"GLOWL_{engine.upper()}_ADAPTERS" in names & set(SERVICES[engine]["environment"])


def test_the_ingress_lets_files_and_streams_through() -> None:
    (ingress,) = documents(FOLDER / "ingress/ingress.yaml")
    notes = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert int(notes["proxy-body-size"].removesuffix("m")) * 2**20 > Settings().max_file_bytes
    assert notes["proxy-buffering"] == notes["proxy-request-buffering"] == "off"
    assert int(notes["proxy-read-timeout"]) > Settings().answer_timeout_s
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend["port"]["name"] in {port["name"] for port in named("Service")[backend["name"]]["spec"]["ports"]}


@pytest.mark.parametrize("page", [page for page in ALL if "kubectl" in page.text], ids=str)
def test_what_pages_name_is_in_the_manifests(page: Page) -> None:
    for kind, name in re.findall(r"\b(deployment|service)/([a-z0-9-]+)", page.text):
        assert name in named(kind.title())
    for path in re.findall(r"kubectl apply -[fk] (\S+)", page.text):
        assert (ROOT / path).exists()
    for namespace in re.findall(r"kubectl -n (\S+)", page.text):
        assert namespace in named("Namespace")


@pytest.mark.parametrize("language", ["", ".zh"])
def test_an_upgrade_and_a_roll_back_replace_one_engine_after_the_other(language: str) -> None:
    page = Page(ROOT / f"docs/operate{language}.md")
    workers = set(ROUTER) - {"api"}
    up, down = (_waves(code) for _, code in page.blocks if "rollout pause" in code)
    assert up == [workers, {"api"}, {"owl2"}, {"glm"}]
    assert down == [{"api"}, {"owl2"}, {"glm"}, workers]


def _waves(code: str) -> list[set[str]]:
    """Which deployments get their new pods together, in order; each wave but the last is waited for."""
    paused: set[str] = set()
    waves: list[set[str]] = []
    pending: set[str] = set()
    for line in code.splitlines():
        names = set(re.findall(r"deployment/(\S+)", line))
        if "rollout pause" in line:
            paused |= names
        elif "rollout status" in line:
            pending -= names
        elif "rollout resume" in line or "apply -k" in line:
            assert not pending, f"{line}: {pending} may still be loading"
            assert names <= paused
            waves.append(names or set(named("Deployment")) - paused)
            paused -= names
            pending = set(waves[-1])
    assert not paused
    return waves


@kubectl
def test_a_tag_of_the_gpu_kustomization_reaches_every_pod(tmp_path: Path) -> None:
    # Given a registry and a version of one's own, where the pages say
    shutil.copytree(FOLDER, tmp_path / "k")
    made = kustomization("gpu")
    own = {name: f"registry.example.com/{name}" for name in ("glowl-api", "glowl-engine")}
    made["images"] = [{"name": name, "newName": full, "newTag": "0.2.0"} for name, full in own.items()]
    (tmp_path / "k/gpu/kustomization.yaml").write_text(yaml.safe_dump(made))
    # When
    done = subprocess.run(["kubectl", "kustomize", tmp_path / "k/gpu"], capture_output=True, text=True, check=True)
    # Then
    images = re.findall(r"image: (\S*glowl\S+)", done.stdout)
    counts = {f"{own['glowl-api']}:0.2.0": len(ROUTER), f"{own['glowl-engine']}:0.2.0": len(ENGINES)}
    assert {image: images.count(image) for image in set(images)} == counts


@kubectl
@pytest.mark.parametrize("name", ["base", "with-ingress"])
def test_kustomize_makes_of_it_what_is_valid(tmp_path: Path, name: str) -> None:
    shutil.copytree(FOLDER, tmp_path / "k")
    with_ingress = tmp_path / "k" / "with-ingress"
    with_ingress.mkdir()
    more = {"resources": ["../gpu"], "components": ["../ingress"], "namespace": "glowl"}
    head = {key: kustomization("gpu")[key] for key in ("apiVersion", "kind")}
    (with_ingress / "kustomization.yaml").write_text(yaml.safe_dump({**head, **more}))

    made = subprocess.run(["kubectl", "kustomize", tmp_path / "k" / name], capture_output=True, text=True, check=True)

    found = list(yaml.safe_load_all(made.stdout))
    for document in found:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    expected = [*BASE, *(OTHERS[:3] if name == "with-ingress" else ())]
    assert sorted(map(ids, expected)) == sorted(re.sub("ConfigMap-.*", "", ids(each)) for each in found)[1:]
    claims = re.findall(r"claimName: (\S+)", made.stdout)
    assert claims == ([] if name == "base" else ["models-glm", "models-owl2"])
