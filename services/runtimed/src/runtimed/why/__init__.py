"""Why a container ended or did not start, from what is known of it: pure, no I/O."""
