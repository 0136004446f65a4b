"""The ports of runtimed on real services; imported by main only."""
