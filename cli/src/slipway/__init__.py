"""The slipway command: images and containers of a node, for people."""
