"""Nodes that erase."""
