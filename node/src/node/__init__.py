"""A whole node as one command: NATS, Redis and the services, started, watched and stopped together."""
