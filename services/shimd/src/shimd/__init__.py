"""shimd: starts shims, one supervisor process per container, and finds them again."""
