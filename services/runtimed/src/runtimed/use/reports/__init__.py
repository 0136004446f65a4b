"""What can be known of the node and its pods: use of the machine, reasons, overviews."""
