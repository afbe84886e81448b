"""The pack's own socket types, declared once; core types are used wherever they fit."""

from __future__ import annotations

from comfy_api.latest import io

Pool = io.Custom("DARKMINER_POOL")
Embeddings = io.Custom("DARKMINER_EMBEDDINGS")
Bank = io.Custom("DARKMINER_BANK")
Settings = io.Custom("DARKMINER_SETTINGS")
RedTeam = io.Custom("DARKMINER_RED_TEAM")
Round = io.Custom("DARKMINER_ROUND")
Lora = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")
