"""Power cuts: a node in an emulated machine whose power goes while it pulls and runs, again and again."""
