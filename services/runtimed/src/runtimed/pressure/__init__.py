"""Pressure on the node and on its containers, told before anything dies."""
