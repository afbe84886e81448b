"""Clusters of Ray's. Not part of the default run: ``-m fleet`` asks for it, as docs/fleet.md says.

They need Ray in the Python that runs the tests; the cluster of two machines needs network
namespaces, which is Linux and root.
"""

from __future__ import annotations


def pytest_collection_modifyitems(config, items):
    """Leave the clusters out where nobody asks for them."""
    if "fleet" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("fleet")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
