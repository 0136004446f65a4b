"""Layer tars to directory trees; what runs in the helper imports the standard library and the decompressors."""
