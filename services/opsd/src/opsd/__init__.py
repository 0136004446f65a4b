"""The dashboard: what all nodes of a NATS cluster do, live, as a web page."""
