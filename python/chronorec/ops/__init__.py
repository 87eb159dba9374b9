"""Public ops: one function per op, which owns its meaning, its checks and the choice of backend."""

# graph
from chronorec.ops._graph import Graph as Graph
from chronorec.ops._graph import make_graph as make_graph
from chronorec.ops._items import PackedItems as PackedItems
from chronorec.ops._items import pack_items as pack_items
from chronorec.ops.graph_aggregate import graph_aggregate as graph_aggregate
from chronorec.ops.graph_attention import graph_attention as graph_attention
from chronorec.ops.gru import GruOutput as GruOutput
from chronorec.ops.gru import PackedGRU as PackedGRU
from chronorec.ops.gru import gru as gru
from chronorec.ops.gru import gru_step as gru_step
from chronorec.ops.gru import pack_gru_weights as pack_gru_weights
from chronorec.ops.item_cross_entropy import item_cross_entropy as item_cross_entropy
from chronorec.ops.item_rank import item_rank as item_rank
from chronorec.ops.item_score import item_score as item_score
from chronorec.ops.item_topk import item_topk as item_topk
from chronorec.ops.jagged_attention import jagged_attention as jagged_attention
from chronorec.ops.jagged_attention import jagged_attention_step as jagged_attention_step
from chronorec.ops.lstm import LSTMOutput as LSTMOutput
from chronorec.ops.lstm import PackedLSTM as PackedLSTM
from chronorec.ops.lstm import lstm as lstm
from chronorec.ops.lstm import lstm_step as lstm_step
from chronorec.ops.lstm import pack_lstm_weights as pack_lstm_weights
from chronorec.ops.reference.item_rank import Rank as Rank
from chronorec.ops.reference.item_score import ItemAdjustment as ItemAdjustment
from chronorec.ops.reference.item_topk import TopK as TopK
from chronorec.ops.reference.jagged_attention import AttentionBias as AttentionBias
from chronorec.ops.rnn import PackedRNN as PackedRNN
from chronorec.ops.rnn import RNNOutput as RNNOutput
from chronorec.ops.rnn import pack_rnn_weights as pack_rnn_weights
from chronorec.ops.rnn import rnn as rnn
from chronorec.ops.rnn import rnn_step as rnn_step
