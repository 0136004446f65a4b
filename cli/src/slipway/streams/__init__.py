"""Our standard streams: a terminal, questions on it, a conversation with a process."""
