"""How shimd reaches the zygote."""
