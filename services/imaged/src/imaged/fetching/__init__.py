"""What all who fetch over the network share: the registry's adapters and the peers."""
