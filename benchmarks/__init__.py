"""Benchmarks: fitting and measuring beside what a user would run instead."""
