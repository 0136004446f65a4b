"""How registries are reached: TLS with client certificates and logins at a real one, proxies, headers, short names."""

import base64
import json
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
import urllib3

from common.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError, UnknownError
from devtools.ports import free_port, wait_for_port
from imaged.adapters.proxies import Proxies
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.ports import Credentials
from imaged.reference import Reference, expanded
from imaged.service import Images
from services.imaged.tests.conftest import BadRegistry, ImageParts, Node, RealRegistry, Tools

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
LIMITS = Limits(connect_timeout_s=2, stall_timeout_s=2, retry_wait_s=0.01, max_retry_after_s=0.05)
NOBODY = Credentials()
HASHED = "$2b$04$7avmIcUSCtBSH/ZWfbGoCuZmop83moJVq73pcerL7LHfTPcCEB3XG"
"""bcrypt of pass:word."""


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=30)


class SecureRegistry:
    """docker-registry with TLS, clients known by certificate, and a password."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("ca", "other"):
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-keyout", f"{root}/{name}.key", "-out", f"{root}/{name}.crt")  # fmt: skip
        for name in ("server", "client"):
            openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                    "-keyout", f"{root}/{name}.key", "-out", f"{root}/{name}.csr")  # fmt: skip
            (root / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:reg.example\n")
            openssl("x509", "-req", "-in", f"{root}/{name}.csr", "-CA", f"{root}/ca.crt", "-CAkey", f"{root}/ca.key",
                    "-CAcreateserial", "-days", "2", "-extfile", f"{root}/ext", "-out", f"{root}/{name}.crt")  # fmt: skip
        (root / "htpasswd").write_text(f"me:{HASHED}\n")
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{root}/data"}},
            "auth": {"htpasswd": {"realm": "here", "path": f"{root}/htpasswd"}},
            "http": {
                "addr": self.host,
                "tls": {
                    "certificate": f"{root}/server.crt",
                    "key": f"{root}/server.key",
                    "clientcas": [f"{root}/ca.crt"],
                },
            },
        }
        (root / "config.yml").write_text(json.dumps(settings))
        with (root / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log
            )
        wait_for_port(self.port)

    def push(self, path: str, image: ImageParts) -> str:
        pool = urllib3.PoolManager(
            ca_certs=f"{self.root}/ca.crt", cert_file=f"{self.root}/client.crt", key_file=f"{self.root}/client.key",
            headers=urllib3.make_headers(basic_auth="me:pass:word"),
        )  # fmt: skip
        url = f"https://{self.host}/v2/{path}"
        for digest, body in image.blobs.items():
            location = pool.request("POST", f"{url}/blobs/uploads/").headers["Location"]
            put = pool.request("PUT", f"{location}&digest={digest}", body=body)
            assert put.status == 201, put.data
        kind = {**pool.headers, "Content-Type": image.media_type}
        assert pool.request("PUT", f"{url}/manifests/v1", body=image.manifest, headers=kind).status == 201
        return f"{self.host}/{path}:v1"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRegistry]:
    made = SecureRegistry(tmp_path_factory.mktemp("secure"))
    yield made
    made.process.kill()
    made.process.wait()


def known(
    tmp_path: Path, secure: SecureRegistry, ca: str = "ca", client: str = '[["client.crt", "client.key"]]'
) -> str:
    """A certs.d for that registry."""
    directory = tmp_path / "certs.d" / secure.host
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("ca.crt", "other.crt", "client.crt", "client.key"):
        (directory / name).write_bytes((secure.root / name).read_bytes())
    text = f'server = "https://{secure.host}"\nca = "{ca}.crt"\n' + (f"client = {client}\n" if client else "")
    (directory / "hosts.toml").write_text(text)
    return str(tmp_path / "certs.d")


async def resolved(registry: HttpRegistry, name: str, credentials: Credentials = NOBODY) -> str:
    async with registry.repository(Reference.parse(name), credentials) as repository:
        return str(await repository.resolve())


@pytest.fixture
def image(secure: SecureRegistry, tools: Tools) -> ImageParts:
    made = tools.image_of([tools.tar_of({"f": b"x" * 1000})])
    secure.push("team/app", made)
    return made


async def test_client_certificate_and_password_open_a_real_registry(
    secure: SecureRegistry, image: ImageParts, tmp_path: Path
) -> None:
    registry = HttpRegistry(known(tmp_path, secure), 6, LIMITS)
    name = f"{secure.host}/team/app:v1"
    assert await resolved(registry, name, Credentials("me", "pass:word")) == image.digest
    for credentials in (NOBODY, Credentials("me", "wrong")):
        with pytest.raises(PermissionDeniedError) as caught:
            await resolved(registry, name, credentials)
        assert "wrong" not in caught.value.message


@pytest.mark.parametrize(("ca", "client"), [("other", '[["client.crt", "client.key"]]'), ("ca", "")])
async def test_the_wrong_authority_and_no_certificate_do_not(
    secure: SecureRegistry, image: ImageParts, tmp_path: Path, ca: str, client: str
) -> None:
    registry = HttpRegistry(known(tmp_path, secure, ca, client), 6, LIMITS)
    with pytest.raises(UnknownError, match="RegistryUnavailable"):
        await resolved(registry, f"{secure.host}/team/app:v1", Credentials("me", "pass:word"))


async def test_a_missing_certificate_file_is_named(
    secure: SecureRegistry, image: ImageParts, tmp_path: Path
) -> None:
    registry = HttpRegistry(known(tmp_path, secure, "absent"), 6, LIMITS)
    with pytest.raises(FailedPreconditionError, match="TLS settings"):
        await resolved(registry, f"{secure.host}/team/app:v1", NOBODY)


async def test_a_login_that_docker_keeps_is_used_when_none_is_given(
    secure: SecureRegistry, image: ImageParts, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    pair = base64.b64encode(b"me:pass:word").decode()
    config.write_text(json.dumps({"auths": {f"https://{secure.host}/v1/": {"auth": pair}}}))
    registry = HttpRegistry(known(tmp_path, secure), 6, LIMITS, docker_config=str(config))
    name = f"{secure.host}/team/app:v1"
    assert await resolved(registry, name) == image.digest
    with pytest.raises(PermissionDeniedError):
        await resolved(registry, name, Credentials("me", "given and wrong"))
    config.write_text("{")
    with pytest.raises(FailedPreconditionError, match=r"config\.json"):
        await resolved(registry, name)


async def test_headers_of_the_operator_go_to_that_host_only(
    bad_registry: BadRegistry, tools: Tools, tmp_path: Path
) -> None:
    elsewhere = tools.bad_registry()
    made = tools.image_of([tools.tar_of({"f": b"x"})])
    elsewhere.serve(made)
    try:
        bad_registry.answer = lambda h: tools.reply(
            h, 307, headers={"Location": f"http://{elsewhere.host}{h.path}"}
        )
        directory = tmp_path / "certs.d" / "reg.example"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{bad_registry.host}"\n[header]\nx-key = "secret"\n'
        )
        registry = HttpRegistry(str(tmp_path / "certs.d"), 6, LIMITS)
        assert await resolved(registry, "reg.example/app:v1") == made.digest
    finally:
        elsewhere.close()
    assert [headers.get("x-key") for _, _, headers in bad_registry.requests] == ["secret"]
    assert all("x-key" not in headers for _, _, headers in elsewhere.requests)


class Proxy:
    """Forwards to one address, whatever host is asked for; wants a password when it has one."""

    def __init__(self, target: str, password: str = "") -> None:
        self.requests: list[str] = []
        wanted = "Basic " + base64.b64encode(password.encode()).decode() if password else None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _allowed(self) -> bool:
                outer.requests.append(f"{self.command} {self.path}")
                if wanted and self.headers.get("Proxy-Authorization") != wanted:
                    self.send_response(407)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return False
                return True

            def _forward(self) -> None:
                if not self._allowed():
                    return
                parts = urlsplit(self.path)
                accept = {"Accept": self.headers.get("Accept", "*/*")}
                url = f"http://{target}{parts.path}"
                answer = urllib3.request(self.command, url, headers=accept, redirect=False)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            do_GET = do_HEAD = _forward  # noqa: N815 - the library's names

            def do_CONNECT(self) -> None:
                if not self._allowed():
                    return
                host, _, port = target.partition(":")
                with socket.create_connection((host, int(port)), 5) as far:
                    self.send_response(200)
                    self.end_headers()
                    pairs = {self.connection: far, far: self.connection}
                    while True:
                        for ready in select.select(list(pairs), [], [], 5)[0]:
                            piece = ready.recv(65536)
                            if not piece:
                                self.close_connection = True
                                return
                            pairs[ready].sendall(piece)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


async def test_plain_registries_are_reached_through_a_proxy(
    real_registry: RealRegistry, tools: Tools, tmp_path: Path
) -> None:
    made = tools.image_of([tools.tar_of({"f": b"x" * 1000})])
    real_registry.push("proxied/app", "v1", made)
    directory = tmp_path / "certs.d" / "reg.example"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text('server = "http://reg.example"\n')
    proxy = Proxy(real_registry.host, "me:pw")
    try:
        url = proxy.url.replace("://", "://me:pw@")
        registry = HttpRegistry(str(tmp_path / "certs.d"), 6, LIMITS, proxies=Proxies(http=url))
        assert await resolved(registry, "reg.example/proxied/app:v1") == made.digest
        refused = HttpRegistry(str(tmp_path / "certs.d"), 6, LIMITS, proxies=Proxies(http=proxy.url))
        with pytest.raises(UnknownError, match="407"):
            await resolved(refused, "reg.example/proxied/app:v1")
    finally:
        proxy.close()
    assert proxy.requests[0] == "HEAD http://reg.example/v2/proxied/app/manifests/v1"


async def test_tls_registries_are_reached_through_a_tunnel(
    secure: SecureRegistry, image: ImageParts, tmp_path: Path
) -> None:
    known(tmp_path, secure)
    directory = tmp_path / "certs.d" / "reg.example"
    (tmp_path / "certs.d" / secure.host).rename(directory)
    (directory / "hosts.toml").write_text(
        'server = "https://reg.example"\nca = "ca.crt"\nclient = [["client.crt", "client.key"]]\n'
    )
    proxy = Proxy(secure.host)
    try:
        registry = HttpRegistry(str(tmp_path / "certs.d"), 6, LIMITS, proxies=Proxies(https=proxy.url))
        found = await resolved(registry, "reg.example/team/app:v1", Credentials("me", "pass:word"))
    finally:
        proxy.close()
    assert found == image.digest
    assert proxy.requests == ["CONNECT reg.example:443"]


async def test_loopback_registries_are_reached_directly(
    real_registry: RealRegistry, tools: Tools, tmp_path: Path
) -> None:
    made = tools.image_of([tools.tar_of({"f": b"x"})])
    name = real_registry.push("direct/app", "v1", made)
    proxies = Proxies(http="http://127.0.0.1:9", https="http://127.0.0.1:9")
    assert await resolved(HttpRegistry(str(tmp_path), 6, LIMITS, proxies=proxies), name) == made.digest


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("https://reg.example/v2/", True),
        ("http://reg.example/v2/", False),
        ("https://inside.example/v2/", False),
        ("https://a.inside.example/v2/", False),
        ("https://notinside.example/v2/", True),
        ("https://10.1.2.3:5000/v2/", False),
        ("https://11.1.2.3/v2/", True),
        ("https://[fd00::1]/v2/", False),
        ("https://localhost:5000/v2/", False),
        ("https://127.3.2.1/v2/", False),
    ],
)
def test_which_hosts_go_through_the_proxy(url: str, through: bool) -> None:
    proxies = Proxies(https="http://p:1", direct=(".inside.example", "10.0.0.0/8", "fd00::/8"))
    assert bool(proxies.of(url)) is through
    assert Proxies(https="http://p:1", direct=("*",)).of(url) == ""


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("https://registry.corp:5000/v2/", False),
        ("https://a.registry.corp:5000/v2/", False),
        ("https://registry.corp/v2/", True),
        ("https://secure.corp/v2/", False),
        ("https://secure.corp:5000/v2/", True),
        ("https://[fd00::1]:5000/v2/", False),
        ("https://[fd00::1]/v2/", True),
        ("https://[fd00::2]:7000/v2/", False),
        ("https://10.0.0.1:5000/v2/", False),
        ("https://10.0.0.1:5001/v2/", True),
    ],
)
def test_a_port_says_which_registry_of_a_host_goes_past_the_proxy(url: str, through: bool) -> None:
    direct = ("registry.corp:5000", "secure.corp:443", "[fd00::1]:5000", "fd00::2", "10.0.0.1:5000")
    assert bool(Proxies(https="http://p:1", direct=direct).of(url)) is through


async def test_short_names_belong_to_the_registry_of_the_setting(
    node: Node, registry: HttpRegistry, real_registry: RealRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"f": b"x"})])
    name = real_registry.push("short", "v1", made)
    async with anyio.create_task_group() as group:
        images = Images(
            node.records,
            node.content,
            registry,
            node.layers,
            workplace=node.images.bringing._workplace,
            task_group=group,
            short_names=real_registry.host,
        )
        pulled = [m async for m in images.pull("short:v1", NOBODY)][-1].image
        assert pulled is not None
        assert pulled.repo_tags == (name,)
        assert images.catalog.find("short:v1").repo_tags == (name,)
        strict = Images(
            node.records,
            node.content,
            registry,
            node.layers,
            task_group=group,
            workplace=node.images.bringing._workplace,
            short_names="",
        )
        with pytest.raises(InvalidArgumentError, match="short_names"):
            [m async for m in strict.pull("short:v1", NOBODY)]
        pulled = [m async for m in strict.pull(name, NOBODY)][-1].image
        assert pulled is not None
        assert pulled.id == made.config_digest
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("app", "reg.example/app"),
        ("me/app:1", "reg.example/me/app:1"),
        ("docker.io/app", "docker.io/app"),
        ("localhost/app", "localhost/app"),
        ("host:5000/app", "host:5000/app"),
    ],
)
def test_names_with_a_registry_stay_as_they_are(text: str, whole: str) -> None:
    assert expanded(text, "reg.example") == whole
    assert expanded(text, "docker.io") == text
