"""Numbers to logits: the encoder, the convolution, the model, and the cache of states.

Size letters, the same everywhere in this package:

====== ===========================================
B      texts (rows) of a batch
N, L   encoder windows of a batch, and their length
T      word pieces of a row
D      width of an encoder's state
W, F   window widths of the convolution, filters of each
M      features, W * F
P      window positions
K      labels
====== ===========================================
"""
