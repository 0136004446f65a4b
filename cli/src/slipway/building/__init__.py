"""Builds images from Dockerfiles: parsed, planned and driven here, made by the node's services."""
