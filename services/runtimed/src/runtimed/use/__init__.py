"""The use cases of runtimed, in the words of the domain."""
