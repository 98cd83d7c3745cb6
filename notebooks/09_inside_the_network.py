# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inside the network (optional)
#
# From a window of PET to a mask: shape by shape, and with two oddities of the published network that its weights
# depend on. For readers who want to change the network, load released weights, or just know.
#
# **You will be able to**
#
# - follow a window and a click to the mask, and name the three parts of the network;
# - read an attention map: which keys does a query look at;
# - explain the shifted axes of the released weights, and why they must stay;
# - compute what padded windows cost, and why they need not.
#
# **Before you start:** lesson 0, and what attention and a softmax are.
#
# **Time:** less than a minute to run on two cores of a laptop, half an hour to read; 1 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 9 of 9; previous: [8 Tumour burden](08_tumor_burden.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F

import seganypet as sap
from seganypet.lessons.pictures_network import attention, padding, relative_bias
from seganypet.model.attention import ReleasedAttention, ReleasedWindowAttention, relative_rows
from seganypet.model.config import RELEASED
from seganypet.model.sam3d import Sam3D
from seganypet.organs import ORGANS
from seganypet.prompting.window import sample_window, window_around

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
phantom: int = 20_000  # seed of the phantom that is looked at
organ: str = "liver"  # the organ in it that is clicked
seed: int = 0  # of every other draw
output_dir: str = "../out"  # what the widget saves goes here

# %%
sap.check_parameters(globals())
assert organ in ORGANS, f"organ={organ!r}: take one of {', '.join(ORGANS)}."

# %% [markdown]
# ## Load, and look

# %%
case = sap.make_phantom(phantom, "internal")
truth = case.organs == ORGANS.index(organ) + 1
network = sap.load_model("tiny-base")
_ = sap.show_mip(case.pet, {organ: truth})

# %% [markdown]
# ## Your hand first: one embedding, many clicks
#
# Click the organ, then click where its outline is wrong: the second answer comes much faster than the first. What was
# computed once, and what twice? Then **Add object** and click something else: why does that take long again? The next
# cells open the network to see.

# %%
drawing = sap.Session(network, case.pet)
drawing.select(organ)
sap.ClickWidget(drawing, truth={organ: truth}, goal=0.85, output_dir=f"{output_dir}/by_hand")

# %% [markdown]
# ## The network, opened

# %% [markdown]
# The network never sees the whole scan. It sees a [window](glossary.md#window), a cube of voxels around a click.

# %%
config = network.config
click_mm = case.pet.to_mm(sap.first_click(truth, spacing=case.pet.spacing).ijk)
window = window_around(case.pet, click_mm, config.window_size, config.spacing_mm)
suv = sample_window(case.pet, window)  # (1, 1, n, n, n)
point = torch.tensor(window.to_window(click_mm), dtype=torch.float32)[None, None]  # (1, 1, 3): one window, one click
print(f"{network.name} sees {tuple(suv.shape[2:])} voxels of {config.spacing_mm:g} mm; click at {point[0, 0].tolist()}")

# %% [markdown]
# Three parts follow each other. The **image encoder** turns the window into tokens, lets them attend to each other,
# and narrows them (the *neck*): the [embedding](glossary.md#embedding). The **prompt encoder** turns a click into
# *sparse* tokens, and the previous mask into a *dense* [prompt](glossary.md#prompt). In the **mask decoder** tokens
# look at image and image at tokens, then the image is enlarged twice.
#
# A *hook* is called whenever a part has done its work. These note the shape of what came out.

# %%
parts = {
    "stem: tokens, half, quarter": network.image_encoder.patch_embed,
    **{f"attention block {n}": block for n, block in enumerate(network.image_encoder.blocks)},
    "neck": network.image_encoder.neck,
    "prompts: sparse, dense, ...": network.prompt_encoder,
    "decoder: tokens, image": network.mask_decoder.transformer,
    "enlarged once": network.mask_decoder.fuse_quarter,
    "enlarged twice": network.mask_decoder.fuse_half,
    "logits, predicted IoU": network.mask_decoder,
}
made = {}
hooks = [
    part.register_forward_hook(lambda _, given, result, name=name: made.update({name: result}))
    for name, part in parts.items()
]
embedding = network.embed(network.normalise(suv))
network.decode(embedding, point, torch.ones(1, 1), network.no_logits())
for hook in hooks:
    hook.remove()
for name, result in made.items():
    tensors = result if isinstance(result, tuple) else (result,)
    print(f"{name:28s}", *(tuple(tensor.shape) for tensor in tensors if tensor is not None))

# %% [markdown]
# What to notice:
#
# - The stem also returns two finer grids. They skip attention and join the decoder where the image has been enlarged
#   to their size, so that edges survive.
# - One click makes *two* sparse tokens: the click, and one that says "no more".
# - The decoder's other tokens are one for the predicted quality (IoU) and four for masks; a mask token becomes a
#   filter over the enlarged image.
# - [Logits](glossary.md#logits) come on every second voxel. `network.upscale` interpolates them; above 0 is inside.
#
# Where are the parameters, and how does the published network compare? On the device `meta` tensors have a shape
# and no memory, so we can count a large network on a small machine.

# %%
with torch.device("meta"):
    released = Sam3D(RELEASED)
counts = pd.DataFrame(
    {
        name: {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in model.named_children()}
        for name, model in {network.name: network, "released": released}.items()
    }
)
counts.loc["sum"] = counts.sum()
print("parameters, in millions")
counts.round(3)

# %% [markdown]
# Nearly all of the published network is its image encoder, which runs once per window. Its size is *from the release*:
# 12 blocks. (The supplement writes 16.) Ours differs in three points, so that it learns in minutes: a convolutional
# stem instead of one projection of each patch, the finer grids, and clicks that are also drawn into the dense prompt.
#
# ## A query and its keys
#
# In attention each token asks by a *query*, all tokens offer a *key* ([both](glossary.md#query-and-key)), and the
# softmax of their products says how much of each token's value is taken. **Drag the query** (i, j, k) into the organ,
# to its border and into the air. Then change block and head. Which heads look nearby? Which look at tissue of one
# kind, wherever it lies?

# %%
attention(network, suv)

# %% [markdown]
# ## What the released weights know: shifted axes
#
# Attention alone does not know where a token lies. So each query $q$ at $(d, h, w)$ adds to its logit for a key at
# $(k_d, k_h, k_w)$ a bias from three tables $T$ of relative positions. The textbook pairs each axis with itself:
#
# $$q_{dhw} \cdot T_d[d - k_d] + q_{dhw} \cdot T_h[h - k_h] + q_{dhw} \cdot T_w[w - k_w]$$
#
# *From the release*: the public code adds its tables one axis off, and takes other queries' vectors for two of them:
#
# $$q_{dhw} \cdot T_d[d - k_w] + q_{d h k_d} \cdot T_h[h - k_w] + q_{d h k_h} \cdot T_w[k_h - k_w]$$
#
# It looks like a slip, but the weights were trained with it: correct it, and they no longer fit.
#
# To see what it does, let one table serve all axes and say "look near": 0 at distance 0, and -1 for each token of
# distance. All queries are 1, so a bias is a sum of table rows.

# %% [markdown]
# **Drag** the query (d, h, w) and the slice of keys, k_d. On the left: where is the brightest spot? On the right: does
# it matter which slice of keys you look at? Which of d, h and w?

# %%
relative_bias()

# %%
side = 6
query = d, h, w = 4, 1, 3
near = -(torch.arange(2.0 * side - 1) - (side - 1)).abs()[:, None]  # (2 side - 1, 1 channel)
rows = relative_rows(near, side)[..., 0]  # (side, side): row for a query at [this] and a key at [that]
textbook = rows[d][:, None, None] + rows[h][None, :, None] + rows[w][None, None, :]  # (kd, kh, kw)
shifted = rows[d][None, None, :] + rows[h][None, None, :] + rows[None, :, :].expand(side, -1, -1)

# %%
figure, axes = plt.subplots(2, 3, figsize=(8.4, 6), layout="constrained", sharex=True, sharey=True)
for line, (name, bias) in zip(axes, {"textbook": textbook, "released": shifted}.items(), strict=True):
    for ax, kd in zip(line, (0, 2, 4), strict=True):
        image = ax.imshow(bias[kd], cmap="viridis", vmin=-12, vmax=0)
        ax.set(title=f"{name}: keys of $k_d$ = {kd}", xlabel="$k_w$", ylabel="$k_h$")
        ax.label_outer()
        if kd == d:
            ax.plot(w, h, "o", color="white", markeredgecolor="black", markersize=9)
figure.colorbar(image, ax=axes, shrink=0.7, label="bias of the logit")
_ = figure.suptitle(f"Where the query at (d, h, w) = {query} looks; its own place is the disc")

# %% [markdown]
# The textbook form is brightest at the query's own place and fades in all directions. In the released form $k_d$ makes
# no difference at all: it chooses a query's vector, and here these are all alike. "Near" no longer means near. A
# network can learn around that, and the released one did. Networks trained here use the textbook form. The released
# form exists for released weights.

# %% [markdown]
# ## 2744 x 2744 is 512 x 513
#
# A second oddity, *from the release*. Two thirds of its blocks attend within windows of 14 tokens a side. But the grid
# has only 8. So it is padded with zeros to $14^3 = 2744$ tokens, and the pads are not masked: their query, key and
# value are the projection's biases. Most of the work is spent on pads.
#
# All pads have the same key and the same value. So for a query they act as *one* key, whose weight is the sum of
# theirs; and nobody reads what the pads' own queries find. 512 queries against 512 keys and a virtual one are enough.
# Is it the same, exactly? We pad by hand, in double precision, and compare.

# %% [markdown]
# **Predict, then drag:** how many of the tokens are pads, at 8 tokens a side in a window of 14? How many pairs of
# query and key could be saved?

# %%
padding()

# %%
torch.manual_seed(seed)
quick = ReleasedWindowAttention(dim=12, heads=2, window=5).double()
for parameter in quick.parameters():
    torch.nn.init.normal_(parameter)
naive = ReleasedAttention(dim=12, heads=2, side=5).double()  # attention among all 5^3 tokens, pads or not
naive.load_state_dict(quick.state_dict())
tokens = torch.randn(1, 3, 3, 3, 12, dtype=torch.float64)
with torch.inference_mode():
    padded = F.pad(tokens, (0, 0, 0, 2, 0, 2, 0, 2))  # (1, 5, 5, 5, 12): zeros behind each axis
    difference = (naive(padded)[:, :3, :3, :3] - quick(tokens)).abs().max()
print(f"largest difference: {difference:.1e}")

# %% [markdown]
# Nothing but rounding. The saving, at the published size and for one block of 12 heads:

# %%
for name, queries, keys in (("padded", 14**3, 14**3), ("collapsed", 8**3, 8**3 + 1)):
    numbers = 12 * queries * keys
    print(f"{name:10s} {queries} x {keys}: {numbers:10,d} logits, {4 * numbers / 2**20:3.0f} MiB")
print(f"a factor of {14**6 / (8**3 * (8**3 + 1)):.1f}")

# %% [markdown]
# The virtual key's logit is the logarithm of a sum of exponentials over all pads. The docstring of
# `ReleasedWindowAttention` derives it, without the differences that would cancel in single precision.

# %% [markdown]
# ## When it goes wrong
#
# The network's positions are a table for a grid of one size, so a window of another size does not fit. PyTorch says so
# in tokens, not in voxels. **Predict both numbers:** a window of 48 instead of 64 voxels, patches of 8.

# %%
try:
    network.embed(network.normalise(suv[..., :48, :48, :48]))
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. Tokens.** A window of 96 voxels a side is cut into patches of 16. How many tokens are there?

# %% tags=["solution"]
my_tokens = (96 // 16) ** 3

# %%
sap.check("9.tokens", my_tokens)

# %% [markdown]
# **2. Pads.** 8 tokens a side are padded to 14. Which fraction of the padded window is pads?

# %% tags=["solution"]
my_fraction = 1 - (8 / 14) ** 3

# %%
sap.check("9.pads", my_fraction)

# %% [markdown]
# **3. Change and explain.** Move d, h and w of the query one by one. Which makes no difference in the released form,
# where all queries are alike?
#
# - a: d
# - b: h
# - c: w
# - d: none; all three count

# %% tags=["solution"]
my_axis = "c"

# %%
sap.check("9.released", my_axis)

# %% [markdown]
# **4. By hand: two objects.** In the widget above, the organ and something else, with at least one click each.

# %% tags=["solution"]
_ = drawing.click(ijk=sap.first_click(truth, spacing=case.pet.spacing).ijk)
kidney = case.organs == ORGANS.index("kidney_left") + 1
drawing.select("kidney_left")
_ = drawing.click(ijk=sap.first_click(kidney, spacing=case.pet.spacing).ijk)

# %%
sap.check("9.hand", drawing)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A second click in the same window is much faster than the first. Why?
#
# <details><summary>Answer</summary>
#
# The image encoder, nearly all of the network, runs once per window. A click runs only prompt encoder and mask
# decoder.
#
# </details>
#
# **2.** The shifted axes look like a slip. Why not correct them?
#
# <details><summary>Answer</summary>
#
# The released weights were trained with them; a corrected form no longer fits the weights, and the masks get worse.
#
# </details>
#
# **3.** Pads have no content. Why do they matter?
#
# <details><summary>Answer</summary>
#
# They are not masked: their keys and values are the projection's biases, and each query gives them weight.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - One embedding, many clicks: look where the parameters are.
# - Weights belong to the arithmetic that they were trained with, slips included.
# - What is equal can be collapsed: measure that nothing changed.
#
# ## Who says what
#
# - **From the release:** depth and size of the network, the shifted axes, the unmasked pads. All from the public
#   repositories of SegAnyPET and SAM-Med3D.
# - **Ours:** the convolutional stem, the finer grids, clicks in the dense prompt, and the collapsed pads.
# - **Measured here:** every number that a cell printed.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, and its supplement (B.2).
# - Wang et al., *SAM-Med3D*, arXiv:2310.15161. The network and the released code.
# - Li et al., *MViTv2*, arXiv:2112.01526. Decomposed relative positions, the textbook form.
# - The docstrings of `seganypet.model.attention`.
#
# *Lesson 9 of 9; previous: [8 Tumour burden](08_tumor_burden.ipynb)*
#
# *Not for clinical use.*
