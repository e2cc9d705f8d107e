"""Losses: pure functions of the global batch.

Pre-training objectives take the projection heads' raw outputs, [batch, dim] float32, and normalise inside, each as its
paper does: to unit length (softmax and sigmoid families), to zero mean and unit variance per dimension over the batch
(barlow, decur), or not at all (vicreg).
"""
