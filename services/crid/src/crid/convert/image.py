"""Images and credentials."""

import json

from common.api.cri.v1 import api_pb2
from common.api.images.v1 import images_pb2

MAX_UID = 2**31 - 1
MAX_DIGITS = 10


def image_of(image: images_pb2.Image) -> api_pb2.Image:
    """An image of imaged as CRI's."""
    made = api_pb2.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size_bytes,
        spec=api_pb2.ImageSpec(image=image.id),
        pinned=image.pinned,
    )
    user = image.user.partition(":")[0]
    if user.isascii() and user.isdecimal() and len(user) <= MAX_DIGITS and int(user) <= MAX_UID:
        made.uid.value = int(user)
    elif user:
        # A number that is too big stays a name: the kubelet then refuses runAsNonRoot instead of trusting it.
        made.username = user
    return made


def spec_of(config: bytes) -> str:
    """The image config as the JSON that it is, however deep it nests; an empty object when a registry sent something else."""
    try:
        found = json.loads(config)
    except (ValueError, RecursionError):
        return "{}"
    return config.decode() if isinstance(found, dict) else "{}"


def auth_of(auth: api_pb2.AuthConfig) -> images_pb2.Auth:
    """CRI's credentials as imaged's."""
    return images_pb2.Auth(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        server_address=auth.server_address,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )
