"""Signatures: what passes and what does not, at a real registry with real keys."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from common.errors import SlipwayError, UnknownError
from imaged.adapters.keys import verify
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.loading import Loads
from imaged.manifest import local_platform
from imaged.ports import Credentials
from imaged.record import ImageRecord
from imaged.service import Images
from imaged.signatures import Trust
from imaged.signed import ANNOTATION, BUNDLE_TYPES, PAYLOAD_TYPE
from services.imaged.tests.conftest import BadRegistry, ImageParts, Node, RealRegistry, Tools
from services.imaged.tests.signing import KEYS, OTHER, RULE, PrivateKey, pem, sign

NOBODY = Credentials()
INDEX = "application/vnd.oci.image.index.v1+json"
SIGNED, ACCEPT = [RULE], [{"type": "insecureAcceptAnything"}]
SIGN = "https://sigstore.dev/cosign/sign/v1"


def dsse(
    private: PrivateKey, digest: str, *, predicate: str = SIGN, name: str = "", spoil: bool = False
) -> bytes:
    """A bundle as `cosign sign --key` of version 3 makes it."""
    subject = {"digest": {"sha256": digest.removeprefix("sha256:")}} | ({"name": name} if name else {})
    statement = {
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
        "subject": [subject], "predicate": {},
    }  # fmt: skip
    payload, kind = json.dumps(statement).encode(), b"application/vnd.in-toto+json"
    signed = b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload))
    envelope = {
        "payload": base64.b64encode(payload + b" " * spoil).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"sig": base64.b64encode(sign(private, signed)).decode(), "keyid": ""}],
    }
    return json.dumps(bundle_of(dsseEnvelope=envelope)).encode()


def message(private: PrivateKey, body: bytes, *, claimed: bytes = b"") -> bytes:
    """A bundle as `cosign sign-blob --bundle` makes it of a manifest's bytes."""
    digest = hashlib.sha256(claimed or body).digest()
    signed = {
        "messageDigest": {"algorithm": "SHA2_256", "digest": base64.b64encode(digest).decode()},
        "signature": base64.b64encode(sign(private, body)).decode(),
    }
    return json.dumps(bundle_of(messageSignature=signed)).encode()


def bundle_of(**content: object) -> dict[str, object]:
    material = {"publicKey": {"hint": "x"}, "tlogEntries": [], "timestampVerificationData": {}}
    return {"mediaType": BUNDLE_TYPES[0], "verificationMaterial": material, **content}


def referring(tools: Tools, digest: str, bundle: bytes, artifact: str) -> ImageParts:
    """A bundle as an artifact that refers to a document (cosign's BUNDLE_SPEC.md)."""
    image = tools.image_of([])
    image.blobs = {tools.sha256(body): body for body in (b"{}", bundle)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": image.media_type,
        "artifactType": artifact,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": tools.sha256(b"{}"),
            "size": 2,
        },
        "layers": [{"mediaType": artifact, "digest": tools.sha256(bundle), "size": len(bundle)}],
        "subject": {"mediaType": image.media_type, "digest": digest, "size": 7023},
    }
    image.manifest = json.dumps(manifest).encode()
    return image


def referrers_index(tools: Tools, *manifests: bytes) -> bytes:
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": tools.sha256(manifest),
            "size": len(manifest),
            "artifactType": json.loads(manifest)["artifactType"],
        }
        for manifest in manifests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


@dataclass
class Shop:
    """A repository at a real registry, with signatures."""

    registry: RealRegistry
    tools: Tools
    node: Node
    source: HttpRegistry
    directory: Path

    def push(self, path: str, body: bytes = b"x") -> tuple[ImageParts, str]:
        image = self.tools.image_of([self.tools.tar_of({"f": body})])
        return image, self.registry.push(path, "v1", image)

    def sign(
        self,
        path: str,
        digest: str,
        private: PrivateKey,
        *,
        name: str = "",
        said: str = "",
        spoil: bool = False,
    ) -> None:
        payload = json.dumps(
            {
                "critical": {
                    "identity": {"docker-reference": name or f"{self.registry.host}/{path}"},
                    "image": {"docker-manifest-digest": said or digest},
                    "type": "cosign container image signature",
                },
                "optional": None,
            }
        ).encode()
        signature = sign(private, payload)
        if spoil:
            payload += b" "
        image = self.tools.image_of([])
        image.blobs[self.tools.sha256(payload)] = payload
        manifest = json.loads(image.manifest)
        manifest["layers"] = [
            {
                "mediaType": PAYLOAD_TYPE,
                "digest": self.tools.sha256(payload),
                "size": len(payload),
                "annotations": {ANNOTATION: base64.b64encode(signature).decode()},
            }
        ]
        image.manifest = json.dumps(manifest).encode()
        self.registry.push(path, digest.replace(":", "-") + ".sig", image)

    def bundle(self, path: str, digest: str, bundle: bytes, *, artifact: str = BUNDLE_TYPES[0]) -> bytes:
        """Push a bundle that refers to a document; returns its manifest, which only its digest names."""
        image = referring(self.tools, digest, bundle, artifact)
        self.registry.push(path, image.digest, image)
        return image.manifest

    def stand_in(self, path: str, digest: str, *manifests: bytes) -> None:
        """The tag by which a registry without the referrers API lists them."""
        body = referrers_index(self.tools, *manifests)
        self.registry.put_manifest(path, digest.replace(":", "-"), body, INDEX)

    def policy(self, **requirement: object) -> str:
        """A policy that rejects all but this registry."""
        path = self.directory / "policy.json"
        scopes = {self.registry.host: [{"type": "sigstoreSigned", **requirement}]}
        path.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": scopes}}))
        return str(path)

    def key(self, private: PrivateKey) -> str:
        path = self.directory / "key.pub"
        path.write_bytes(pem(private))
        return str(path)

    async def pull(self, name: str, policy: str) -> ImageRecord:
        """Pull under a policy; an error leaves the task group as itself."""
        error = image = None
        async with anyio.create_task_group() as group:
            images = Images(
                self.node.records, self.node.content, self.source, self.node.layers,
                task_group=group, workplace=Spools(self.node.content.ingests, 1 << 20), policy=(policy, verify),
            )  # fmt: skip
            try:
                image = [moment async for moment in images.pull(name, NOBODY)][-1].image
            except SlipwayError as exc:
                error = exc
        if error:
            raise error
        assert image is not None
        return image


@pytest.fixture
def shop(
    node: Node, registry: HttpRegistry, real_registry: RealRegistry, tools: Tools, tmp_path: Path
) -> Shop:
    return Shop(real_registry, tools, node, registry, tmp_path)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize("kind", KEYS)
async def test_a_signed_image_passes_and_leaves_no_payload(shop: Shop, kind: str) -> None:
    image, name = shop.push(f"trust/{kind}", kind.encode())
    shop.sign(f"trust/{kind}", image.digest, KEYS[kind])
    policy = shop.policy(keyPath=shop.key(KEYS[kind]))
    pulled = await shop.pull(name, policy)
    assert pulled.id == image.config_digest
    assert set(shop.node.content.all()) == {*image.blobs, image.digest}
    assert (await shop.pull(name, policy)).id == pulled.id


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    "what", ["nobody", "another key", "another digest", "another name", "another payload"]
)
async def test_what_is_not_signed_right_is_refused_before_anything_is_unpacked(shop: Shop, what: str) -> None:
    path = f"untrusted/{what.replace(' ', '-')}"
    image, name = shop.push(path, what.encode())
    mine = KEYS["ecdsa"]
    if what != "nobody":
        shop.sign(
            path,
            image.digest,
            OTHER if what == "another key" else mine,
            name=f"{shop.registry.host}/untrusted/else" if what == "another name" else "",
            said="sha256:" + "a" * 64 if what == "another digest" else "",
            spoil=what == "another payload",
        )
    with pytest.raises(UnknownError) as caught:
        await shop.pull(name, shop.policy(keyPath=shop.key(mine)))
    assert caught.value.message.startswith(f"SignatureValidationFailed: image {name}: ")
    assert (shop.node.images.catalog.all(), shop.node.layers.applied) == ([], [])


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_image_that_is_here_must_pass_again(shop: Shop) -> None:
    _, name = shop.push("trust/later", b"later")
    accepting = shop.directory / "accept.json"
    accepting.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    await shop.pull(name, str(accepting))
    with pytest.raises(UnknownError, match="no signature"):
        await shop.pull(name, shop.policy(keyPath=shop.key(KEYS["ecdsa"])))
    rejecting = shop.directory / "reject.json"
    rejecting.write_text('{"default": [{"type": "reject"}]}')
    with pytest.raises(UnknownError, match="rejects default"):
        await shop.pull(name, str(rejecting))


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    ("identity", "signed", "passes"),
    [
        ("matchRepository", "", True),
        ("matchExact", "", False),
        ("matchExact", ":v1", True),
        ("matchRepoDigestOrExact", ":v1", True),
        ("matchRepoDigestOrExact", ":v2", False),
    ],
)
async def test_the_name_that_was_signed_counts_as_the_policy_says(
    shop: Shop, identity: str, signed: str, passes: bool
) -> None:
    path = f"names/{identity.lower()}{signed.replace(':', '-')}"
    image, name = shop.push(path, path.encode())
    shop.sign(path, image.digest, OTHER, name=f"{shop.registry.host}/{path}{signed}")
    policy = shop.policy(keyPath=shop.key(OTHER), signedIdentity={"type": identity})
    if passes:
        assert (await shop.pull(name, policy)).id == image.config_digest
    else:
        with pytest.raises(UnknownError, match="SignatureValidationFailed"):
            await shop.pull(name, policy)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", ["dsse", "message"])
async def test_an_image_with_a_sigstore_bundle_passes_by_the_tag_scheme(
    shop: Shop, kind: str, form: str
) -> None:
    path = f"bundles/{form}-{kind}"
    image, name = shop.push(path, path.encode())
    made = dsse(KEYS[kind], image.digest) if form == "dsse" else message(KEYS[kind], image.manifest)
    shop.stand_in(path, image.digest, shop.bundle(path, image.digest, made))
    policy = shop.policy(keyPath=shop.key(KEYS[kind]))
    pulled = await shop.pull(name, policy)
    assert pulled.id == image.config_digest
    assert set(shop.node.content.all()) == {*image.blobs, image.digest}
    assert (await shop.pull(name, policy)).id == pulled.id


@pytest.mark.anyio
@pytest.mark.integration
async def test_bundles_are_found_by_the_referrers_api_over_its_pages(
    shop: Shop, tools: Tools, registry: HttpRegistry, bad_registry: BadRegistry
) -> None:
    """The registry here has no such API: one that has it stands before its documents."""
    image = tools.image_of([tools.tar_of({"f": b"by the API"})])
    parts = [
        referring(tools, image.digest, dsse(key, image.digest), BUNDLE_TYPES[0])
        for key in (OTHER, KEYS["rsa"])
    ]
    bad_registry.serve(image)
    documents = {part.digest: part for part in parts}
    blobs = {digest: body for part in parts for digest, body in part.blobs.items()}
    image_answer = bad_registry.answer

    def answer(h: BaseHTTPRequestHandler) -> None:
        where, _, query = h.path.partition("?")
        last = where.rpartition("/")[2]
        if "/referrers/" in where:
            page = int("page=2" in query)
            link = {} if page else {"Link": f'<{where}?{query}&page=2>; rel="next"'}
            body = referrers_index(tools, parts[page].manifest)
            tools.reply(h, 200, body, {"Content-Type": INDEX, **link})
        elif last in documents:
            tools.reply(h, 200, documents[last].manifest, {"Content-Type": image.media_type})
        elif last.endswith(".sig"):
            tools.reply(h, 404)
        elif last in blobs and last not in image.blobs:
            tools.reply(h, 200, blobs[last])
        else:
            image_answer(h)

    bad_registry.answer = answer
    name = f"{bad_registry.host}/by/api:v1"
    policy = shop.directory / "policy.json"
    rule = {"type": "sigstoreSigned", "keyPath": shop.key(KEYS["rsa"])}
    policy.write_text(json.dumps({"default": [rule]}))
    assert (await shop.pull(name, str(policy))).id == image.config_digest
    asked = [path for _, path, _ in bad_registry.requests if "/referrers/" in path]
    assert [f"/referrers/{image.digest}?artifactType=application%2Fvnd.dev" in path for path in asked] == [
        True,
        True,
    ]
    assert not [path for _, path, _ in bad_registry.requests if path.endswith(image.digest.replace(":", "-"))]


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    "what", ["another key", "an attestation", "another digest", "another payload", "another artifact", "a name",
             "a named identity", "two contents", "another manifest"],
)  # fmt: skip
async def test_a_bundle_that_does_not_sign_this_image_is_none(shop: Shop, what: str) -> None:
    path = f"unbundled/{what.replace(' ', '-')}"
    image, name = shop.push(path, what.encode())
    mine, digest = KEYS["ecdsa"], image.digest
    bundles: dict[str, Callable[[], bytes]] = {
        "another key": lambda: dsse(OTHER, digest),
        "an attestation": lambda: dsse(mine, digest, predicate="https://spdx.dev/Document"),
        "another digest": lambda: dsse(mine, "sha256:" + "a" * 64),
        "another payload": lambda: dsse(mine, digest, spoil=True),
        "another artifact": lambda: dsse(mine, digest),
        "a name": lambda: dsse(mine, digest, name=f"{shop.registry.host}/elsewhere"),
        "a named identity": lambda: dsse(mine, digest),
        "two contents": lambda: json.dumps(json.loads(dsse(mine, digest)) | json.loads(message(mine, image.manifest))).encode(),
        "another manifest": lambda: message(mine, b"another", claimed=image.manifest),
    }  # fmt: skip
    artifact = "application/vnd.example" if what == "another artifact" else BUNDLE_TYPES[0]
    shop.stand_in(path, digest, shop.bundle(path, digest, bundles[what](), artifact=artifact))
    more = {"signedIdentity": {"type": "matchRepository"}} if what == "a named identity" else {}
    with pytest.raises(UnknownError, match=r"^SignatureValidationFailed: image"):
        await shop.pull(name, shop.policy(keyPath=shop.key(mine), **more))
    assert (shop.node.images.catalog.all(), shop.node.layers.applied) == ([], [])


def archived(
    tools: Tools, image: ImageParts, *bundles: bytes, name: str = "", beside: ImageParts | None = None
) -> bytes:
    """An OCI layout of an image, within an index when another is beside it, and artifacts that refer to it."""
    parts = [image, *(referring(tools, image.digest, bundle, BUNDLE_TYPES[0]) for bundle in bundles)]
    entries = [{"mediaType": p.media_type, "digest": p.digest, "size": len(p.manifest)} for p in parts]
    blobs = {}
    if beside:
        here, there = ({"os": "linux", "architecture": a} for a in (local_platform().architecture, "s390x"))
        index, kind = tools.index_of((image, here), (beside, there))
        entries[0] = {"mediaType": kind, "digest": tools.sha256(index), "size": len(index)}
        parts, blobs = [*parts, beside], {tools.sha256(index): index}
    entries[0]["annotations"] = {"io.containerd.image.name": name} if name else {}
    blobs |= {digest: body for part in parts for digest, body in part.blobs.items()}
    blobs |= {part.digest: part.manifest for part in parts}
    return tools.tar_of(
        {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
            **{"blobs/" + digest.replace(":", "/"): body for digest, body in blobs.items()},
        }
    )


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    ("scopes", "name", "key", "passes"),
    [
        ({"docker": {"reg.example/team": SIGNED}}, "reg.example/team/app:1", "ecdsa", True),
        ({"docker": {"reg.example/team": SIGNED}}, "reg.example/team/app:1", "rsa", False),
        ({"docker": {"reg.example/team": SIGNED}}, "reg.example/team/app:1", "", False),
        ({"docker": {"reg.example/team": SIGNED}}, "reg.example/other/app:1", "ecdsa", False),
        ({"docker": {"reg.example/team": SIGNED}}, "", "ecdsa", False),
        ({"docker": {"": ACCEPT}}, "", "", False),
        ({"docker": {"": ACCEPT}}, "anything", "", True),
        ({"oci-archive": {"": ACCEPT}}, "anything", "", True),
        ({"oci-archive": {"": SIGNED}}, "", "ecdsa", True),
        ({"oci-archive": {"": SIGNED}, "docker": {"": ACCEPT}}, "anything", "rsa", False),
        ({"docker-archive": {"": ACCEPT}}, "anything", "", False),
    ],
)
async def test_an_archive_is_under_the_policy_before_anything_of_it_is_kept(
    shop: Shop,
    tools: Tools,
    scopes: dict[str, dict[str, list[dict[str, str]]]],
    name: str,
    key: str,
    passes: bool,
) -> None:
    image = tools.image_of([tools.tar_of({"f": b"archived"})])
    body = archived(tools, image, *([dsse(KEYS[key], image.digest)] if key else []), name=name)
    policy = shop.directory / "policy.json"
    text = json.dumps({"default": [{"type": "reject"}], "transports": scopes})
    policy.write_text(text.replace("KEY", shop.key(KEYS["ecdsa"])))
    node = shop.node
    if passes:
        assert [record.id for record, _ in await loaded(node, policy, body)] == [image.config_digest]
        assert set(node.content.all()) == {*image.blobs, image.digest}
        return
    with pytest.raises(UnknownError, match=r"^SignatureValidationFailed: image"):
        await loaded(node, policy, body)
    assert (node.images.catalog.all(), node.layers.applied, node.content.all()) == ([], [], [])
    assert list(node.content.ingests.iterdir()) == []


async def loaded(node: Node, policy: Path, body: bytes) -> list[tuple[ImageRecord, tuple[str, ...]]]:
    """What comes of an archive under a policy."""
    trust = Trust(str(policy), verify, node.content, node.images.leases)
    spools = Spools(node.content.ingests, 1 << 20)
    loads = Loads(
        spools, node.images.catalog, node.images.leases, node.content,
        node.images.bringing, local_platform(), trust,
    )  # fmt: skip

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    return await loads.load(pieces(), name="", replace=False)


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_signed_image_of_another_platform_vouches_for_none(shop: Shop, tools: Tools) -> None:
    image, other = (tools.image_of([tools.tar_of({"f": text})]) for text in (b"mine", b"theirs"))
    policy = shop.directory / "policy.json"
    rules = {"default": [{"type": "reject"}], "transports": {"oci-archive": {"": SIGNED}}}
    text = json.dumps(rules)
    policy.write_text(text.replace("KEY", shop.key(KEYS["ecdsa"])))
    with pytest.raises(UnknownError, match=r"^SignatureValidationFailed: image"):
        await loaded(
            shop.node, policy, archived(tools, image, dsse(KEYS["ecdsa"], other.digest), beside=other)
        )
    body = archived(tools, image, dsse(KEYS["ecdsa"], image.digest), beside=other)
    [(record, _)] = await loaded(shop.node, policy, body)
    assert (record.id, other.digest in record.blobs) == (image.config_digest, True)
