"""Where truth is kept: the Store and BlobStore seams (``base``) and what implements them."""
