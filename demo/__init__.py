"""The gallery: a small text-to-image model that knows seven designers' house styles."""
