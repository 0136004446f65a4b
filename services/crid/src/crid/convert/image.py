"""Images and credentials."""

import json

from common.api.cri.v1 import api_pb2
from common.api.images.v1 import images_pb2

MAX_UID = 2**31 - 1


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
    user = _user(image.config)
    if user.isdecimal() and int(user) <= MAX_UID:
        made.uid.value = int(user)
    elif user:
        made.username = user
    return made


def _user(config: bytes) -> str:
    """The user of the image's USER, without its group."""
    table = json.loads(config).get("config") or {}
    return str(table.get("User") or "").partition(":")[0]


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
