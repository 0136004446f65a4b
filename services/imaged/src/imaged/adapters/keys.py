"""Signatures by public keys: ECDSA, RSA and Ed25519."""

from common.errors import FailedPreconditionError


def verify(key: bytes, signature: bytes, payload: bytes) -> bool:
    """See `imaged.signatures.Verifier`."""
    # imported here: 10 MiB that a node without a policy need not have
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(key)
    except ValueError as exc:
        raise FailedPreconditionError("signature policy: a key in it is no public key in PEM") from exc
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, payload)
        else:
            raise FailedPreconditionError("signature policy: want a key of ECDSA, RSA or Ed25519")
    except InvalidSignature:
        return False
    return True
