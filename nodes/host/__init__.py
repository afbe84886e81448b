"""The only door to ComfyUI's inside."""
