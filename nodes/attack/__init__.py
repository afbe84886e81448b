"""Nodes that attack an erasure, to judge it."""
