"""The network.

    base         what a network must offer the sessions: PromptableNetwork, SliceNetwork
    config       widths and depths: tiny, released, paper
    sam3d        Sam3D: image encoder -> prompt encoder -> mask decoder
    image_encoder, attention, layers   windows to embeddings
    prompt_encoder, mask_decoder   clicks and masks to tokens; tokens and embeddings to logits
    likeness, mask_quality   what looks like a click; how good a mask is, told from the mask
    sam2d, sam_attention   SAM for slices; its attention in blocks
    devices      where networks compute, and on how many threads
    locator      where the organs of a whole scan are, without prompts
    checkpoints, hub   weights by name or path, in every layout that was released; the names
"""
