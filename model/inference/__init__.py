"""Generating text: prefill, decoding, sampling."""
