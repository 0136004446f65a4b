"""Signatures by public keys: ECDSA, RSA and Ed25519."""

from typing import TYPE_CHECKING

from common.errors import FailedPreconditionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


def verify(key: bytes, signature: bytes, payload: bytes) -> bool:
    """See `imaged.trust.Verifier`."""
    # imported here: 10 MiB that a node without a policy need not have
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(key)
    except ValueError as exc:
        raise FailedPreconditionError("it is no public key in PEM") from exc
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            return _ecdsa(public, signature, payload)
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, payload)
        else:
            raise FailedPreconditionError("want a key of ECDSA, RSA or Ed25519")
    except InvalidSignature:
        return False
    return True


def _ecdsa(public: "ec.EllipticCurvePublicKey", signature: bytes, payload: bytes) -> bool:
    """Cosign signs with SHA-256 by any key, other makers of bundles with a hash of the key's own size."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    own: dict[int, hashes.HashAlgorithm] = {384: hashes.SHA384(), 521: hashes.SHA512()}
    for algorithm in filter(None, (hashes.SHA256(), own.get(public.key_size))):
        try:
            public.verify(signature, payload, ec.ECDSA(algorithm))
        except InvalidSignature:
            continue
        return True
    return False
