"""Gristmill turns the files in a bucket into a prediction service you can trust."""

__version__ = "0.1.0"
