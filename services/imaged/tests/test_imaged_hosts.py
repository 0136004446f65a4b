from collections import defaultdict
from pathlib import Path

import pytest

from common.errors import FailedPreconditionError
from common.settings import load
from imaged import hosts
from imaged.adapters.proxies import Proxies
from imaged.settings import Settings
from tests.docs.pages import ROOT, blocks


def write(root: Path, name: str, text: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "hosts.toml").write_text(text)


def test_without_settings_https_is_used_and_loopback_may_be_plain(tmp_path: Path) -> None:
    assert [h.url for h in hosts.find(str(tmp_path), "quay.io")] == ["https://quay.io/v2"]
    assert [h.url for h in hosts.find(str(tmp_path), "docker.io")] == ["https://registry-1.docker.io/v2"]
    for name in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000", "localhost"):
        assert [h.url for h in hosts.find(str(tmp_path), name)] == [f"https://{name}/v2", f"http://{name}/v2"]


def test_mirror_goes_first_and_the_server_last(tmp_path: Path) -> None:
    write(
        tmp_path, "docker.io",
        'server = "https://registry-1.docker.io"\n[host."http://mirror:5000"]\ncapabilities = ["pull"]\n'
        'skip_verify = true\nca = "ca.pem"\nclient = [["a.cert", "a.key"]]\ndial_timeout = "2s"\n'
        '[host."http://mirror:5000".header]\nx-key = ["1", "2"]\n',
    )  # fmt: skip
    mirror, server = hosts.find(str(tmp_path), "docker.io")
    assert (mirror.url, mirror.mirror_of, mirror.connect_timeout_s) == (
        "http://mirror:5000/v2",
        "docker.io",
        2,
    )
    assert mirror.capabilities == {"pull"}
    assert mirror.skip_verify
    assert mirror.ca == (str(tmp_path / "docker.io" / "ca.pem"),)
    assert mirror.client == ((str(tmp_path / "docker.io/a.cert"), str(tmp_path / "docker.io/a.key")),)
    assert mirror.headers == (("x-key", "1"), ("x-key", "2"))
    assert (server.url, server.mirror_of) == ("https://registry-1.docker.io/v2", "")


@pytest.mark.parametrize("name", ["reg.example_5000_", "reg.example:5000", "_default"])
def test_directories_of_a_host_with_a_port(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, '[host."https://m/cache"]\noverride_path = true\n')
    found = hosts.find(str(tmp_path), "reg.example:5000")
    assert [h.url for h in found] == ["https://m/cache", "https://reg.example:5000/v2"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90), ("1h0.5m", 3630), ("250ms", 0.25), ("1.5s", 1.5), (".5s", 0.5), ("10us", 1e-5), ("0", 0)],
)
def test_durations_are_those_of_go(tmp_path: Path, text: str, seconds: float) -> None:
    write(tmp_path, "quay.io", f'[host."https://m"]\ndial_timeout = "{text}"\n')
    assert hosts.find(str(tmp_path), "quay.io")[0].connect_timeout_s == pytest.approx(seconds)


def test_the_words_of_containerd_are_known(tmp_path: Path) -> None:
    write(tmp_path, "quay.io", '[host."https://m"]\ncapabilities = ["pull", "resolve", "referrers"]\n')
    assert hosts.find(str(tmp_path), "quay.io")[0].capabilities >= {"pull", "resolve"}


@pytest.mark.parametrize(
    "text",
    ["=", 'server = "ftp://x"', '[host."https://m"]\ncapabilities = ["fly"]']
    + [f'[host."https://m"]\ndial_timeout = {d}' for d in ('""', '"5"', '"1m 3s"', '"s"', '"-1s"', "5")],
)
def test_bad_hosts_file_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, "quay.io", text)
    with pytest.raises(FailedPreconditionError, match=r"quay\.io/hosts\.toml"):
        hosts.find(str(tmp_path), "quay.io")


@pytest.mark.parametrize("scheme", ["", "https://"])
def test_who_logs_in_at_a_host_is_neither_told_nor_part_of_its_name(tmp_path: Path, scheme: str) -> None:
    host = f'[host."{scheme}me:secret@m:5000"]\n'
    write(tmp_path, "quay.io", host)
    [found, _] = hosts.find(str(tmp_path), "quay.io")
    assert (found.url, found.name) == ("https://m:5000/v2", "m:5000")
    write(tmp_path, "gcr.io", host + 'capabilities = ["fly"]')
    with pytest.raises(FailedPreconditionError, match=r"\*\*\*@m:5000': unknown capabilities") as refused:
        hosts.find(str(tmp_path), "gcr.io")
    assert "secret" not in refused.value.message


def test_the_files_of_the_page_are_what_it_says(tmp_path: Path) -> None:
    files: defaultdict[str, str] = defaultdict(str)
    for block in blocks(ROOT / "docs/registries.md"):
        if str(Path(__file__).relative_to(ROOT)) in block.tested_by:
            path, _, text = block.text.removeprefix("# /etc/slipway/").partition("\n")
            files[path] += text
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    [secure] = hosts.find(f"{tmp_path}/certs.d", "registry.example")
    own = tmp_path / "certs.d/registry.example"
    assert (secure.url, secure.ca) == ("https://registry.example/v2", (f"{own}/ca.crt",))
    assert secure.client == ((f"{own}/node.crt", f"{own}/node.key"),)
    assert [h.url for h in hosts.find(f"{tmp_path}/certs.d", "10.0.0.7:5000")] == ["http://10.0.0.7:5000/v2"]
    mirror, cache, hub = hosts.find(f"{tmp_path}/certs.d", "docker.io")
    assert (mirror.url, mirror.capabilities) == ("https://mirror.example/v2", frozenset({"pull", "resolve"}))
    assert (mirror.connect_timeout_s, len(mirror.ca)) == (2, 1)
    assert (cache.url, cache.capabilities) == ("https://cache.example/hub/v2", frozenset({"pull"}))
    assert (cache.headers, cache.mirror_of) == ((("x-api-key", "secret"),), "docker.io")
    assert (hub.url, hub.mirror_of) == ("https://registry-1.docker.io/v2", "")
    settings = load(Settings, "imaged", ["--config", f"{tmp_path}/imaged.toml"])
    assert settings.short_names == "registry.example"
    proxies = Proxies(settings.http_proxy, settings.https_proxy, settings.no_proxy)
    assert proxies.of("https://registry.example") == "http://user:password@proxy.example:3128"
    assert proxies.of("https://a.inside.example") == proxies.of("https://10.1.2.3") == ""
