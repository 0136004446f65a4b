"""Fuzzing by coverage: what grows on the inputs that reach new code, beside the made-up values of hypothesis."""
