"""The network.

    config       widths and depths: tiny, released, paper
    sam3d        Sam3D: image encoder -> prompt encoder -> mask decoder
    image_encoder, attention, layers   windows to embeddings;  prompt_encoder: clicks and masks to tokens
    mask_decoder    tokens and embeddings to logits
    sam2d        SAM for slices
    checkpoints, hub   weights by name or path, in every layout that was released
"""
