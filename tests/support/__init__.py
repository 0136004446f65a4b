"""Real servers and nodes for tests."""
