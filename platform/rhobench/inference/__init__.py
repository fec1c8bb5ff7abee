"""Prediction on new images with trained models, and conversion of weights between formats."""
