"""gRPC, once: status mapping, interceptors, servers and channels."""
