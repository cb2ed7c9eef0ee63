"""Files that appear whole, tensors in them, and objects and files of others in folders and in S3."""
