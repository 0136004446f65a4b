"""What on this machine is missing for a node, or will bite: small checks, each with a fix."""
