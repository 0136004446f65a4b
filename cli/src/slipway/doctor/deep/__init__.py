"""The deep look: all that a node has recorded, against all that is on the machine."""
