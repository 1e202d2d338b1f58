"""Numbers to logits: the encoder, the convolution, the model, and the cache of states.

Size letters, the same everywhere in this package:

====== ===========================================
B      texts (rows) of a batch
N, L   encoder windows of a batch, and their length; where no batch is meant, N texts
T      word pieces of a row
D      width of an encoder's state
S      width of what the head reads of a piece: D, or that of several layers side by side
W, F   window widths of the convolution, filters of each
M      features, W * F
P      window positions
K      labels
====== ===========================================
"""
