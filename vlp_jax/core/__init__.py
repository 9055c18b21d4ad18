"""Foundations without a device: errors, path-named pytrees, random keys, loading modules by
name.
"""
