"""Runs scenarios."""
