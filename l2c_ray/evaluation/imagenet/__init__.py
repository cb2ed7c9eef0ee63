"""Judging images of ImageNet models as their papers do: by Inception features, against a reference batch."""
