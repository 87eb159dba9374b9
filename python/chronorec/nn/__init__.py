"""Torch modules over :mod:`chronorec.ops`, on jagged batches: values [N, ...] and offsets int64 [B + 1]."""

from chronorec.nn._recurrent import RecurrentBase
from chronorec.nn.attention import SelfAttention, TransformerBlock
from chronorec.nn.categories import Category
from chronorec.nn.copy import Candidates, CopyHead
from chronorec.nn.fusion import FusedAttention
from chronorec.nn.gap_bias import GapBias
from chronorec.nn.graph import GraphAttention, GraphConvolution
from chronorec.nn.gru import GRU
from chronorec.nn.hstu import HSTUBlock
from chronorec.nn.lstm import LSTM
from chronorec.nn.mixed_cross_entropy import mixed_cross_entropy
from chronorec.nn.pair_head import PairHead
from chronorec.nn.profile import UserProfile
from chronorec.nn.rescore import Rescore
from chronorec.nn.rnn import RNN
from chronorec.nn.segment_memory import SegmentMemory
from chronorec.nn.time_features import EventTime, RequestTime
from chronorec.nn.time_gate import TimeGate

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Candidates",
    "Category",
    "CopyHead",
    "EventTime",
    "FusedAttention",
    "GapBias",
    "GraphAttention",
    "GraphConvolution",
    "HSTUBlock",
    "PairHead",
    "RecurrentBase",
    "RequestTime",
    "Rescore",
    "SegmentMemory",
    "SelfAttention",
    "TimeGate",
    "TransformerBlock",
    "UserProfile",
    "mixed_cross_entropy",
]
