"""Losses of knowledge adaptation and of the baselines that it is compared with, one file each. `distillation/terms.py`
lists them under the names that recipes use, and says how each is fed."""

from kaseg.distillation.losses.adaptation import AdaptationLoss
from kaseg.distillation.losses.affinity import AffinityLoss
from kaseg.distillation.losses.attention_transfer import AttentionTransferLoss
from kaseg.distillation.losses.channel_wise import ChannelWiseLoss
from kaseg.distillation.losses.dist import DistLoss
from kaseg.distillation.losses.hint import HintLoss
from kaseg.distillation.losses.intra_class import IntraClassLoss
from kaseg.distillation.losses.knowledge_distillation import KnowledgeDistillationLoss
from kaseg.distillation.losses.pairwise import PairwiseLoss
from kaseg.distillation.losses.pearson import PearsonLoss
from kaseg.distillation.losses.whitened import WhitenedLoss

__all__ = [
    "AdaptationLoss",
    "AffinityLoss",
    "AttentionTransferLoss",
    "ChannelWiseLoss",
    "DistLoss",
    "HintLoss",
    "IntraClassLoss",
    "KnowledgeDistillationLoss",
    "PairwiseLoss",
    "PearsonLoss",
    "WhitenedLoss",
]
