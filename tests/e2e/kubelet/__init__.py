"""What a kubelet relies on beyond the conformance suite: each rule by a test that says it."""
