"""The shim: parent of one container's processes. Standard library and msgpack only, in one thread."""
