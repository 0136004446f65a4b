"""Our messages to CRI's, and back."""
