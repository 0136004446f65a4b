"""Blobs from node to node: who has one is asked over NATS, the bytes go over HTTP; docs/peers.md says what that protects."""
