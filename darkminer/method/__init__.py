"""The method: pool, mine, verify, circumvent, chase, and the loop of them."""
