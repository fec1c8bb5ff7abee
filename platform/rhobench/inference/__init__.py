"""Trained models on new images, and weights in and out of other formats."""
