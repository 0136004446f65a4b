"""Layers that are used before their bytes are here: which may be, who brings them, and what becomes of them."""
