"""What this node's opsd knows of its own node, and answers when any node's opsd asks."""
