"""Nodes of the methods that this pack's own is compared with."""
