"""Generated gRPC code beside the protos it comes from."""
