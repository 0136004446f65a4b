"""runtimed: sandboxes and containers, their state machines, bundles, namespaces, network and stats."""
