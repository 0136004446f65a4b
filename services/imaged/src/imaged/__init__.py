"""imaged: images by name, blobs by digest, and the pulls that bring them here."""
