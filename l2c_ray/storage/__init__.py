"""Files that appear whole, and the tensors in them."""
