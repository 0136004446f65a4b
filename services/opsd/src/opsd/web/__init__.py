"""HTTP: the page, its stream of changes, and the questions that it asks."""
