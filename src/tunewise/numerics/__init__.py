"""Maths only: arrays in, arrays out; no files, no logging, no models."""
