"""Signature policies: which rule an image is under, and what passes, at a real registry with real keys."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from common.errors import FailedPreconditionError, SlipwayError, UnknownError
from imaged.adapters.keys import verify
from imaged.ports import Credentials
from imaged.reference import Reference
from imaged.service import Images
from imaged.signatures import ANNOTATION, PAYLOAD_TYPE
from imaged.trust import rules_for, scopes_of

NOBODY = Credentials()


def pem(private) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign(private, payload: bytes) -> bytes:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(payload, ec.ECDSA(hashes.SHA256()))
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    return private.sign(payload)


KEYS = {
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
OTHER = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Shop:
    """A repository at a real registry, with signatures."""

    registry: object
    tools: object
    node: object
    source: object
    directory: Path

    def push(self, path: str, body: bytes = b"x"):
        image = self.tools.image_of([self.tools.tar_of({"f": body})])
        return image, self.registry.push(path, "v1", image)

    def sign(
        self, path: str, digest: str, private, *, name: str = "", said: str = "", spoil: bool = False
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

    def policy(self, **requirement) -> str:
        """A policy that rejects all but this registry."""
        path = self.directory / "policy.json"
        scopes = {self.registry.host: [{"type": "sigstoreSigned", **requirement}]}
        path.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": scopes}}))
        return str(path)

    def key(self, private) -> str:
        path = self.directory / "key.pub"
        path.write_bytes(pem(private))
        return str(path)

    async def pull(self, name: str, policy: str):
        """Pull under a policy; an error leaves the task group as itself."""
        error = image = None
        async with anyio.create_task_group() as group:
            images = Images(
                self.node.records, self.node.content, self.source, self.node.layers,
                task_group=group, policy=(policy, verify),
            )  # fmt: skip
            try:
                image = [moment async for moment in images.pull(name, NOBODY)][-1].image
            except SlipwayError as exc:
                error = exc
        if error:
            raise error
        return image


@pytest.fixture
def shop(node, registry, real_registry, tools, tmp_path: Path) -> Shop:
    return Shop(real_registry, tools, node, registry, tmp_path)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize("kind", KEYS)
async def test_a_signed_image_passes_and_leaves_no_payload(shop, kind) -> None:
    image, name = shop.push(f"trust/{kind}", kind.encode())
    shop.sign(f"trust/{kind}", image.digest, KEYS[kind])
    policy = shop.policy(keyPath=shop.key(KEYS[kind]))
    pulled = await shop.pull(name, policy)
    assert pulled.id == image.config_digest
    assert set(shop.node.content.all()) == {*image.blobs, image.digest}
    assert await shop.pull(name, policy) == pulled


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    "what", ["nobody", "another key", "another digest", "another name", "another payload"]
)
async def test_what_is_not_signed_right_is_refused_before_anything_is_unpacked(shop, what) -> None:
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
async def test_an_image_that_is_here_must_pass_again(shop) -> None:
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
async def test_the_name_that_was_signed_counts_as_the_policy_says(shop, identity, signed, passes) -> None:
    path = f"names/{identity.lower()}{signed.replace(':', '-')}"
    image, name = shop.push(path, path.encode())
    shop.sign(path, image.digest, OTHER, name=f"{shop.registry.host}/{path}{signed}")
    policy = shop.policy(keyPath=shop.key(OTHER), signedIdentity={"type": identity})
    if passes:
        assert (await shop.pull(name, policy)).id == image.config_digest
    else:
        with pytest.raises(UnknownError, match="SignatureValidationFailed"):
            await shop.pull(name, policy)


def test_the_narrowest_scope_counts(tmp_path: Path) -> None:
    reference = Reference.parse("reg.example:5000/team/app:1")
    assert scopes_of(reference) == [
        "reg.example:5000/team/app:1",
        "reg.example:5000/team/app",
        "reg.example:5000/team",
        "reg.example:5000",
        "*.example",
        "",
    ]
    policy = tmp_path / "policy.json"
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    scopes = {"reg.example:5000/team": accept, "*.example": reject, "": reject}
    policy.write_text(json.dumps({"default": reject, "transports": {"docker": scopes}}))
    assert rules_for(policy, reference)[0].accepts_all
    assert rules_for(policy, Reference.parse("reg.example:5000/teams/app"))[0].scope == "*.example"
    assert rules_for(policy, Reference.parse("busybox"))[0].scope == "docker"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"default": [{"type": "signedBy"}]}',
        '{"default": [{"type": "sigstoreSigned"}]}',
        '{"default": [{"type": "sigstoreSigned", "keyPath": "/absent"}]}',
        '{"default": [{"type": "sigstoreSigned", "keyData": "%"}]}',
        '{"default": [{"type": "sigstoreSigned", "keyData": "eA==", "signedIdentity": {"type": "remapIdentity"}}]}',
    ],
)
def test_a_policy_at_fault_lets_nothing_pass_and_is_named(tmp_path: Path, text: str) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(text)
    with pytest.raises(FailedPreconditionError, match=r"policy\.json"):
        rules_for(policy, Reference.parse("busybox"))
    with pytest.raises(FailedPreconditionError, match="No such file"):
        rules_for(tmp_path / "absent", Reference.parse("busybox"))


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(FailedPreconditionError, match="PEM"):
        verify(b"not a key", b"", b"")
