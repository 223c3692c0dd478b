"""observe -> plan -> apply: what is, what should be (pure), and the writes between them."""
