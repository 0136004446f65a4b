"""Records and exit files as older revisions wrote them: a folder for each, made by `python -m tests.older`."""

COMMANDS = {"ended": "echo out; exit 7", "running": "sleep 1000"}
LABELS = {"kept": "yes"}
