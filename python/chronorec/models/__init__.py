"""Models: one family, one file; :mod:`chronorec.models.base` says what a model is."""

from chronorec.models.base import CountingModel, SequenceModel, Sequences
from chronorec.models.bert4rec import BERT4Rec
from chronorec.models.dual_encoder import DualEncoder
from chronorec.models.frequency import PersonalFrequency
from chronorec.models.gru4rec import GRU4Rec
from chronorec.models.hstu import HSTU
from chronorec.models.log_bilinear import LogBilinear
from chronorec.models.markov import Markov
from chronorec.models.neighbours import UserNeighbours
from chronorec.models.popularity import Popularity
from chronorec.models.sasrec import SASRec

__all__ = [
    "BERT4Rec",
    "GRU4Rec",
    "HSTU",
    "CountingModel",
    "DualEncoder",
    "LogBilinear",
    "Markov",
    "PersonalFrequency",
    "Popularity",
    "SASRec",
    "SequenceModel",
    "Sequences",
    "UserNeighbours",
]
