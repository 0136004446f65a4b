"""Who causes transitions: the `cause` of the machines' events."""

RPC = "rpc"
"""A request, or what one began."""
SHIM = "shim"
"""What a container's shim told, or that it tells nothing."""
PAUSE = "pause"
"""The end of a pause process."""
RECONCILE = "reconcile"
