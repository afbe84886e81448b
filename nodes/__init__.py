"""The pack's nodes. Import this inside the host only."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from ..darkminer.libraries import broken
from .attack.card import SaveReportCard
from .attack.fidelity import MeasureFidelity
from .attack.red_team import RedTeam
from .attack.verdict import AttackErasure
from .checks import guard
from .compare.ablation import ConceptAblation
from .compare.esd import ErasedStableDiffusion
from .compare.prompt_filter import PromptFilter
from .compare.salun import SaliencyUnlearning
from .compare.sld import SafeLatentDiffusion
from .compare.slider import ConceptSlider
from .compare.stereo import StereoErasure
from .compare.uce import UnifiedConceptEditing
from .demo_models import DarkMinerDemoModels
from .erase.bank import DarkMinerVocabularyBank
from .erase.chase import DarkMinerChase
from .erase.circumvent import CircumventLoRA
from .erase.combine import CombineErasures
from .erase.compare import CompareErasure
from .erase.concepts import EraseConcepts
from .erase.contexts import DarkMinerConceptContexts
from .erase.image_pool import ImagePoolBuilder
from .erase.load_lora import LoadErasureLoRA
from .erase.loop import DarkMinerLoop
from .erase.mine import MineEmbedding
from .erase.rounds import DarkMinerRoundClose, DarkMinerRoundOpen
from .erase.save_lora import SaveErasureLoRA
from .erase.scale import ScaleConditioning
from .erase.separation import MeasureVerification
from .erase.settings import DarkMinerSettings
from .erase.verify import VerifyDeltaCLIP
from .host.panel import add_routes

log = logging.getLogger(__name__)

NODES: list[type[io.ComfyNode]] = [
    ImagePoolBuilder,
    DarkMinerConceptContexts,
    DarkMinerVocabularyBank,
    MineEmbedding,
    VerifyDeltaCLIP,
    MeasureVerification,
    ScaleConditioning,
    AttackErasure,
    RedTeam,
    SaveReportCard,
    MeasureFidelity,
    CircumventLoRA,
    DarkMinerChase,
    DarkMinerRoundOpen,
    DarkMinerRoundClose,
    DarkMinerLoop,
    EraseConcepts,
    DarkMinerSettings,
    CombineErasures,
    CompareErasure,
    SaveErasureLoRA,
    LoadErasureLoRA,
    ErasedStableDiffusion,
    UnifiedConceptEditing,
    ConceptAblation,
    ConceptSlider,
    SafeLatentDiffusion,
    SaliencyUnlearning,
    StereoErasure,
    PromptFilter,
    DarkMinerDemoModels,
]


for node in NODES:
    guard(node)


class DarkMinerExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        for sentence in broken():
            log.warning("Dark Miner: %s", sentence)
        add_routes()
        return NODES
