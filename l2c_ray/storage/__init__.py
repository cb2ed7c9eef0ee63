"""Files that appear whole, the tensors in them, objects in folders and in S3, and this machine's copies of those."""
