"""What crid says of itself."""

from importlib.metadata import version

VERSION = "0.1.0"
"""Version of the kubelet's runtime API, a constant of the protocol."""
RUNTIME_NAME = "slipway"
RUNTIME_VERSION = version("crid")
RUNTIME_API_VERSION = "v1"
