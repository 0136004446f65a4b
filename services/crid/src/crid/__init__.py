"""crid: the Container Runtime Interface for the kubelet. It keeps no state."""
