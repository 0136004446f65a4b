"""The command line's words: the parser of each group of commands, and what is said of words that are not there."""
