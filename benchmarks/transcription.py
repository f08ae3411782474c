"""The published Aurora generator, written out plainly over its own state dict.

A second derivation, from the facts sheet and the recorded tensors alone, to compare the package with. Nothing
is fast: kernels are made per sample, taps are gathered neighbour by neighbour, experts run in turn.
Shapes: B samples, C channels, HxW maps, T tokens, L style slots, n kernels, h heads of width d, E experts.
`net` is the namespace made by `options`: the constructor's options, plus the state dict as `p`.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F

DEFAULTS = {
    "z_dim": 128, "w_dim": 1024, "repeat_w": True, "mapping_layers": 4, "mapping_fmaps": 1024,
    "mapping_lr_mul": 0.01, "use_w_cond": False, "num_layers_text_enc": 4, "text_lr_mul": 0.01,
    "clip_out_dim": 768, "context_dim": 768, "init_res": 4, "image_channels": 3, "residual_gain": 1.0,
    "attn_gain": 1.0, "text_head_gain": 1.0, "final_tanh": False, "fourier_feat": True, "demodulate": True,
    "use_wscale": True, "fmaps_base": 16384, "fmaps_max": 1600, "conv_clamp": None, "num_heads": 8,
    "head_dim": None, "l2_attention": True, "tie": True, "scale_in": True, "include_ff": True, "glu": False,
    "mtm": False, "num_experts": {}, "num_adaptive_kernels": {}, "attn_depth": {}, "attn_resolutions": None,
    "ms_training_res": ["4", "8", "16", "32", "64"], "skip_connection": False,
}  # fmt: skip
FIR = ((4, 4), torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64, 0.0)


def options(constructor, state_dict=None):
    """Constructor options with defaults filled in, and the layout of the network as `plan`."""
    if constructor.get("use_class_label") or constructor.get("mask_self"):
        raise ValueError("class labels and mask_self are not transcribed")
    net = SimpleNamespace(**{**DEFAULTS, **constructor}, p=state_dict, plan=[], routers=[], losses=[])
    net.bound, res = math.inf if net.conv_clamp is None else net.conv_clamp, net.init_res
    attended = net.attn_depth if net.attn_resolutions is None else net.attn_resolutions
    while res <= net.resolution:
        name, before, width = str(res), *(min(net.fmaps_base // r, net.fmaps_max) for r in (res // 2, res))
        common = {"res": name, "cout": width, "n": net.num_adaptive_kernels.get(name, 1), "last": False}
        common["experts"] = net.num_experts.get(name, 1)
        for block in range(net.num_block_per_res[name]):
            kind, cin = "conv" if net.plan else "input", width if block else before
            up, mtm = not block and res > net.init_res, net.mtm and (res == net.init_res or res < 32)
            net.plan.append(SimpleNamespace(kind=kind, cin=cin, up=up, mtm=mtm, **common))
            if name in attended:
                net.plan.append(SimpleNamespace(kind="attn", **common))
        net.plan[-1].last = True
        res *= 2
    for index, entry in enumerate(net.plan):
        entry.index, entry.key = index, f"synthesis.net.{index}.0"
    return net


def dense(net, key, x, lr_mul=1.0):
    """[..., in] -> [..., out], also for the weight [out,in,1,1] of a plain 1x1 convolution on tokens."""
    weight, bias = net.p[f"{key}.weight"].flatten(1), net.p.get(f"{key}.bias")
    equalised = net.use_wscale or key.endswith(".affine")  # the Fourier input's layer always is
    scale = lr_mul / math.sqrt(weight.shape[1]) if equalised else lr_mul
    return F.linear(x, weight * scale, None if bias is None else bias * lr_mul)


def lrelu(x):
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def layer_norm(net, key, x):
    return F.layer_norm(x, x.shape[-1:], net.p[f"{key}.weight"], net.p[f"{key}.bias"], 1e-5)


def to_map(t):
    """Tokens [B,HW,C] -> square map [B,C,H,W]."""
    return t.transpose(1, 2).unflatten(2, (math.isqrt(t.shape[1]), -1))


def to_tokens(x):
    return x.flatten(2).transpose(1, 2)


def fir(x, taps, before, after):
    """Pad both axes of [B,C,H,W], filter by taps [4,4] with gain 4."""
    x, c = F.pad(x, (before, after, before, after)), x.shape[1]
    return F.conv2d(x, (4 * taps).expand(c, 1, -1, -1), groups=c)


def upsample(x, taps):
    """[B,C,H,W] -> [B,C,2H,2W]: a zero after every value, padding (2,1), filter."""
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return fir(spread, taps, 2, 1)


def modulate(net, kernels, style, demodulate, scale):
    """Kernels [B or 1,out,in,k,k] times style [B,in] -> one kernel per sample [B,out,in,k,k]."""
    if not demodulate:
        return kernels * style[:, None, :, None, None] * scale
    kernels = kernels / kernels.square().mean((2, 3, 4), keepdim=True).sqrt()
    style = style / style.square().mean((0, 1) if net.mix_text else 1, keepdim=True).sqrt()
    kernels = kernels * style[:, None, :, None, None]
    return kernels / torch.sqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)


def grouped_conv(x, kernels, up=False):
    """Sample b of [B,in,H,W] with kernel b of [B,out,in,k,k]: the batch becomes the groups."""
    b, out, cin, k, _ = kernels.shape
    x = x.reshape(1, b * cin, *x.shape[2:])
    if up:
        y = F.conv_transpose2d(x, kernels.transpose(1, 2).reshape(b * cin, out, k, k), stride=2, groups=b)
    else:
        y = F.conv2d(x, kernels.reshape(b * out, cin, k, k), padding=k // 2, groups=b)
    return y.reshape(b, out, *y.shape[2:])


def bilinear(x, ys, xs):
    """Values of [B,C,H,W] at real positions ys, xs [B,H,W]; each neighbour outside the map counts as zero."""
    b, c, height, width = x.shape
    y0, x0, value = ys.floor(), xs.floor(), torch.zeros_like(x)
    for row, weight_y in ((y0, y0 + 1 - ys), (y0 + 1, ys - y0)):
        for col, weight_x in ((x0, x0 + 1 - xs), (x0 + 1, xs - x0)):
            inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
            index = row.clamp(0, height - 1).long() * width + col.clamp(0, width - 1).long()
            found = x.flatten(2).gather(2, index.reshape(b, 1, -1).expand(-1, c, -1)).reshape(x.shape)
            value = value + found * (weight_y * weight_x * inside)[:, None]
    return value


def mtm_conv(net, key, x, w, kernels):
    """MTM: a modulated 3x3 convolution makes (dy,dx) per tap [B,9,2,H,W] and masks [B,9,H,W]; then tap
    t = 3*row+col of the main kernels reads x at p + (row-1, col-1) + (dy,dx)_t, times mask_t."""
    weight, style = net.p[f"{key}.mtm_weight"], dense(net, f"{key}.mtm_style", w)
    fields = modulate(net, weight[None], style, net.demodulate, 1 / math.sqrt(weight[0].numel()))
    fields = grouped_conv(x, fields) * net.p[f"{key}.mtm_scales"] + net.p[f"{key}.mtm_bias"]
    offset, mask = fields[:, :18].unflatten(1, (9, 2)), 2 * torch.sigmoid(fields[:, 18:])
    ys, xs = torch.meshgrid(*(torch.arange(size, device=x.device) for size in x.shape[2:]), indexing="ij")
    y = 0
    for tap in range(9):
        row, col = divmod(tap, 3)
        seen = bilinear(x, ys + (row - 1) + offset[:, tap, 0], xs + (col - 1) + offset[:, tap, 1])
        y = y + torch.einsum("boi,bihw->bohw", kernels[:, :, :, row, col], seen * mask[:, tap, None])
    return y


def am_conv(net, key, x, w, *, demodulate, up=False, mtm=False):
    """Adaptive modulated convolution with its bias, before any activation: [B,in,H,W], w [B,w_dim]."""
    kernels = net.p[f"{key}.weight"]
    if len(kernels) > 1:  # the n stored kernels, mixed by a softmax of w
        share = dense(net, f"{key}.filter_weight", w).softmax(1)
        kernels = (share[:, :, None, None, None, None] * kernels[None]).sum(1)
    scale = 1 / math.sqrt(kernels[0, 0].numel()) if net.use_wscale else 1.0
    kernels = modulate(net, kernels, dense(net, f"{key}.style", w), demodulate, scale)
    y = mtm_conv(net, key, x, w, kernels) if mtm else grouped_conv(x, kernels, up)
    if up:  # the transposed convolution left 2H+1
        y = fir(y, net.p[f"{key}.filter"], 1, 1)
    return y + net.p[f"{key}.bias"][:, None, None]


def attend(net, q, k, v):
    """[B,T,h,d] -> [B,T,h*d]: softmax of scaled similarities, times v; with scale_in q and k are scaled."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    inner, outer = (q.shape[-1] ** -0.5, 1.0) if net.scale_in else (1.0, q.shape[-1] ** -0.5)
    q, k = q * inner, k * inner
    logits = -torch.cdist(q, k) if net.l2_attention else q @ k.transpose(-1, -2)
    return ((logits * outer).softmax(-1) @ v).transpose(1, 2).flatten(2)


def text_head(net, context, eot_ind):
    """CLIP features [B,77,clip_out_dim], end-of-text index [B] -> global [B,C], local [B,76,C]."""
    x, lr_mul = context.transpose(0, 1), net.text_lr_mul
    if net.clip_out_dim != net.context_dim:
        x = dense(net, "text_head.align_dim", x, lr_mul)
    for key in (f"text_head.transformer.res_blocks.{i}" for i in range(net.num_layers_text_enc)):
        y = dense(net, f"{key}.attn.to_qkv", layer_norm(net, f"{key}.ln_1", x), lr_mul)
        q, k, v = y.unflatten(-1, (3, net.num_heads, -1)).unbind(2)
        # Published: 77 is taken for the batch, so samples attend to each other; the logits are multiplied by
        # the flag scale_in, so that False makes all weights equal. One sample alone is left with its own v.
        y = v.flatten(2)
        if net.mix_text:
            y = attend(net, q, k, v) if net.scale_in else y.mean(1, keepdim=True).expand_as(y)
        x = (x + dense(net, f"{key}.attn.to_out.0", y, lr_mul)) * net.text_head_gain
        y = dense(net, f"{key}.c_fc", layer_norm(net, f"{key}.ln_2", x), lr_mul)
        x = (x + dense(net, f"{key}.c_proj", y * torch.sigmoid(1.702 * y), lr_mul)) * net.text_head_gain
    is_end = torch.arange(len(x), device=x.device) == eot_ind[:, None]
    x = x.transpose(0, 1)
    return x[is_end], x[~is_end].reshape(len(x), -1, x.shape[2])


def mapping(net, z, global_text, trunc_psi, trunc_layers):
    """z [B,z_dim], raw global text [B,C] -> result entries z, global_text, w, wp [B,L,w_dim]."""
    z, text = (x / torch.sqrt(x.square().mean(1, keepdim=True) + 1e-8) for x in (z, global_text))
    w = torch.cat([z, text], 1)
    for i in range(net.mapping_layers):
        w = lrelu(dense(net, f"mapping.dense{i}", w, net.mapping_lr_mul))
    wp = w[:, None].repeat(1, len(net.plan), 1) if net.repeat_w else w.unflatten(1, (-1, net.w_dim))
    if trunc_psi is not None and trunc_psi < 1 and (trunc_layers or 0) > 0:
        mean = net.p["w_avg"].reshape(-1, net.w_dim)[:trunc_layers]
        wp = torch.cat([mean + trunc_psi * (wp[:, :trunc_layers] - mean), wp[:, trunc_layers:]], 1)
    w = w if net.repeat_w else wp.flatten(1)  # published as one memory, so truncation shows in both
    return {"z": z, "global_text": text, "w": w, "wp": wp}


def network_input(net, key, w):
    """Fourier features (or the learned constant) at the first resolution, [B,C,r,r]."""
    if not net.fourier_feat:
        return net.p[f"{key}.const"].expand(len(w), -1, -1, -1)
    t = dense(net, f"{key}.affine", w)
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    rotation, shift = torch.eye(3).to(w).repeat(2, len(w), 1, 1)
    rotation[:, :2, :2] = torch.stack([t[:, 0], -t[:, 1], t[:, 1], t[:, 0]], 1).reshape(-1, 2, 2)
    shift[:, :2, 2] = -t[:, 2:]
    a = rotation @ shift @ net.p[f"{key}.transform"]
    freqs, weight = net.p[f"{key}.freqs"], net.p[f"{key}.weight"]
    phases, freqs = net.p[f"{key}.phases"] + (freqs @ a[:, :2, 2:])[..., 0], freqs @ a[:, :2, :2]
    centres = (torch.arange(net.init_res, device=w.device) + 0.5) / net.init_res - 0.5
    angle = freqs[:, :, 0, None, None] * centres[None, :] + freqs[:, :, 1, None, None] * centres[:, None]
    waves = torch.sin(2 * math.pi * (angle + phases[:, :, None, None]))
    return torch.einsum("oc,bchw->bohw", weight / math.sqrt(weight.shape[1]), waves)


def conv_entry(net, entry, x, w):
    """The input with its convolution, or a residual block of two convolutions: [B,cout,H,W]."""
    key, demodulate, bound = entry.key, net.demodulate, net.bound
    if entry.kind == "input":
        y = am_conv(net, key[:-1] + "1", network_input(net, key, w), w, demodulate=demodulate, mtm=entry.mtm)
        return lrelu(y).clamp(-bound, bound)
    y = lrelu(am_conv(net, f"{key}.conv1", x, w, demodulate=demodulate, up=entry.up)).clamp(-bound, bound)
    y = lrelu(am_conv(net, f"{key}.conv2", y, w, demodulate=demodulate, mtm=entry.mtm)).clamp(-bound, bound)
    if entry.up or entry.cin != entry.cout:
        x = to_map(dense(net, f"{key}.skip_connection", to_tokens(x)))
    if entry.up:
        x = upsample(x, net.p[f"{key}.skip_connection.filter"])
    return (y + x) * net.residual_gain


def mlp(net, key, x):
    """One feed-forward network [..., C] -> [..., C]: value * GELU(gate), or plain GELU with `glu`."""
    y = dense(net, f"{key}.0.0" if net.glu else f"{key}.0.proj", x)
    value, gate = (1.0, y) if net.glu else y.chunk(2, -1)
    return dense(net, f"{key}.2", value * F.gelu(gate))


def feed_forward(net, key, x, w, experts):
    """Top-1 mixture of experts on normalised tokens [B,T,C]; notes the routing and the loss in `net`.
    The capacity of 262,144 tokens per expert cannot be exceeded at these sizes and is left out."""
    if experts < 2:
        return mlp(net, f"{key}.net", x)
    logits = to_tokens(lrelu(am_conv(net, f"{key}.routing", to_map(x), w, demodulate=True)))
    probs, y = logits.softmax(-1), torch.zeros_like(x)
    top_prob, index = probs.max(-1)
    for e in range(experts):
        y[index == e] = mlp(net, f"{key}.net.{e}", x[index == e]).to(y.dtype)
    share = F.one_hot(index, experts).float().mean(1)
    balance = experts**2 * (share * probs.mean(1)).mean()
    net.losses.append(0.001 * logits.logsumexp(-1).square().mean() + 0.001 * balance)
    net.routers.append({"expert_index": index, "top_prob": top_prob, "logits": logits, "probs": probs})
    return top_prob[..., None] * y


def attention_entry(net, entry, x, w, text):
    """[B,C,H,W] -> the same, by way of tokens t. Self-attention keeps q|k (or q|k|v) inside each head and
    leaves by a modulated 1x1 convolution; cross-attention cuts one dense layer into k|v first."""
    key, h, bound = entry.key, net.num_heads, net.bound
    t = F.group_norm(x, 32, net.p[f"{key}.norm.weight"], net.p[f"{key}.norm.bias"], 1e-5)
    t = dense(net, f"{key}.proj_in", to_tokens(t)).clamp(-bound, bound)
    for block in (f"{key}.attn_blocks.{depth}" for depth in range(net.attn_depth[entry.res])):
        own, cross = f"{block}.self_attn", f"{block}.cross_attn"
        y = layer_norm(net, f"{block}.norm1", t)
        if net.l2_attention:
            qk, v = dense(net, f"{own}.to_qk", y), dense(net, f"{own}.to_v", y).unflatten(-1, (h, -1))
            q, k = (qk.unflatten(-1, (h, -1)),) * 2 if net.tie else qk.unflatten(-1, (h, 2, -1)).unbind(3)
        else:
            q, k, v = dense(net, f"{own}.to_qkv", y).unflatten(-1, (h, 3, -1)).unbind(3)
        y = to_map(attend(net, q, k, v))
        t = t + to_tokens(am_conv(net, f"{own}.proj_out", y, w, demodulate=net.demodulate))
        words = torch.cat([text, dense(net, f"{block}.align_dim", w)[:, None]], 1) if net.use_w_cond else text
        q = dense(net, f"{cross}.to_q", layer_norm(net, f"{block}.norm2", t)).unflatten(-1, (h, -1))
        k, v = dense(net, f"{cross}.to_kv", words).unflatten(-1, (2, h, -1)).unbind(2)
        t = t + dense(net, f"{cross}.proj_out.0", attend(net, q, k, v))
        if net.include_ff:
            t = t + feed_forward(net, f"{block}.ff", layer_norm(net, f"{block}.norm3", t), w, entry.experts)
    return (x + to_map(dense(net, f"{key}.proj_out", t).clamp(-bound, bound))) * net.attn_gain


def synthesis(net, wp, text):
    """wp [B,L,w_dim] and text tokens [B,76,context] -> image, img_res_RxR, moe_loss, router."""
    out, x, image, largest = {}, None, None, max(int(res) for res in net.ms_training_res)
    for entry in (one for one in net.plan if int(one.res) <= largest):
        w = wp[:, entry.index]
        x = attention_entry(net, entry, x, w, text) if entry.kind == "attn" else conv_entry(net, entry, x, w)
        if entry.last and entry.res in net.ms_training_res:
            name = f"{entry.res}x{entry.res}"
            rgb = am_conv(net, f"synthesis.output_res_{name}", x, w, demodulate=False)
            rgb = rgb.clamp(-net.bound, net.bound)
            rgb = torch.tanh(rgb) if net.final_tanh else rgb
            grow = net.skip_connection and image is not None
            image = rgb + upsample(image, net.p["synthesis.filter"]) if grow else rgb
            out[f"img_res_{name}"] = image
    return {**out, "image": image, "moe_loss": sum(net.losses, wp.new_zeros(())), "router": net.routers}


@torch.no_grad()
def published_generator(
    state_dict, constructor, z, context, eot_ind, *,
    trunc_psi=None, trunc_layers=None, wp=None, local_text=None, mix_text=False,
):  # fmt: skip
    """z [B,z_dim], context [B,77,clip_out_dim], eot_ind [B] -> dictionary of results.

    Every sample is computed as a batch of one; with `mix_text` they mix in the text head, as published.
    A given `wp` [B,L,w_dim] is used as it is (no mapping, no truncation), so are `local_text` [B,76,C]; with
    both, z, context and eot_ind may be None, and w, z and the global text are missing from the result.
    """
    net, out = options({**constructor, "mix_text": mix_text}, state_dict), {}
    if wp is None or local_text is None:
        out["text_head.global"], out["text_head.local"] = text_head(net, context, eot_ind)
    if wp is None:
        out.update(mapping(net, z, out["text_head.global"], trunc_psi, trunc_layers))
    given = {"wp": wp, "text_head.local": local_text}
    out.update({key: value for key, value in given.items() if value is not None})
    return {**out, **synthesis(net, out["wp"], out["text_head.local"])}


def attention_layers(net, entry):
    """Layers of one attention entry, name -> size."""
    c, experts = entry.cout, entry.experts
    i = net.num_heads * (net.head_dim or c // net.num_heads)
    block = {"norm1": (i,), "norm2": (i,), "self_attn.proj_out": (1, i, i, 1, 1), "cross_attn.to_q": (i, i)}
    block |= {"cross_attn.to_kv": (2 * i, net.context_dim), "cross_attn.proj_out.0": (i, i)}
    for name, rows in ({"qk": 1 if net.tie else 2, "v": 1} if net.l2_attention else {"qkv": 3}).items():
        block[f"self_attn.to_{name}"] = (rows * i, i)
    if net.use_w_cond:
        block["align_dim"] = (net.context_dim, net.w_dim)
    if net.include_ff:
        names = [(f"net.{e}.0", f"net.{e}.2") for e in range(experts)]
        for one, two in names if experts > 1 else [("net.0", "net.2"), ("project_in", "proj_out")]:
            block[f"ff.{one}.0" if net.glu else f"ff.{one}.proj"] = (4 * i if net.glu else 8 * i, i)
            block[f"ff.{two}"] = (i, 4 * i)
        block |= {"norm3": (i,)} | ({"ff.routing": (1, experts, i, 1, 1)} if experts > 1 else {})
    layers = {"norm": (c,), "proj_in": (i, c, 1, 1), "proj_out": (c, i, 1, 1)}
    for depth in range(net.attn_depth[entry.res]):
        layers |= {f"attn_blocks.{depth}.{name}": size for name, size in block.items()}
    return {f"{entry.key}.{name}": size for name, size in layers.items()}


def layout(constructor):
    """(shape, mean, std) for every key of an official checkpoint, aliases included."""
    net = options(constructor)
    c, wide = net.context_dim, net.w_dim if net.repeat_w else net.w_dim * len(net.plan)
    tensors = {"w_avg": ((wide,), 0.0, 0.5)} | ({"synthesis.filter": FIR} if net.skip_connection else {})
    layers = {"text_head.align_dim": (c, net.clip_out_dim)} if net.clip_out_dim != c else {}
    block = {"attn.to_qkv": (3 * c, c), "attn.to_out.0": (c, c), "ln_1": (c,), "ln_2": (c,)}
    block |= {"c_fc": (4 * c, c), "c_proj": (c, 4 * c), "mlp.c_fc": (4 * c, c), "mlp.c_proj": (c, 4 * c)}
    for i in range(net.num_layers_text_enc):
        layers |= {f"text_head.transformer.res_blocks.{i}.{name}": size for name, size in block.items()}
    widths = [net.z_dim + c, *[net.mapping_fmaps] * (net.mapping_layers - 1), wide]
    layers |= {f"mapping.dense{i}": (widths[i + 1], widths[i]) for i in range(net.mapping_layers)}
    power, growth, gains = 0.5 if net.fourier_feat else 1.0, 1.05 if net.demodulate else 1.3, {}
    for entry in net.plan:  # power follows the mean square of the features, roughly
        key, n, cout = entry.key, entry.n, entry.cout
        if entry.kind == "attn":
            layers |= attention_layers(net, entry)
            power = (power + 3) * net.attn_gain**2
        else:
            cin, first = entry.cin, entry.kind == "input"
            last, inner = (key[:-1] + "1", cin) if first else (f"{key}.conv2", cout)
            layers[last] = (n, cout, inner, 3, 3)
            if not first:
                layers[f"{key}.conv1"] = (n, cout, cin, 3, 3)
            elif net.fourier_feat:
                layers[f"{key}.affine"] = (4, net.w_dim)
                near_identity = (3, 3), torch.eye(3), torch.tensor([[0.2], [0.2], [0.0]])
                tensors |= {f"{key}.transform": near_identity, f"{key}.phases": ((cin,), 0.0, 0.3)}
                tensors |= {f"{key}.weight": ((cin, cin), 0.0, 1.0), f"{key}.freqs": ((cin, 2), 0.0, 0.5)}
            else:
                tensors[f"{key}.const"] = (1, cin, net.init_res, net.init_res), 0.0, 1.0
            if entry.mtm:
                layers[f"{last}.mtm_style"] = (inner, net.w_dim)
                tensors[f"{last}.mtm_weight"] = (27, inner, 3, 3), 0.0, 1.0
                for name, std in {"bias": 0.3, "scales": 0.4 / math.sqrt(power)}.items():
                    tensors[f"{last}.mtm_{name}"] = (1, 27, 1, 1), 0.0, std
            if entry.up:
                tensors |= {f"{key}.conv1.filter": FIR, f"{key}.skip_connection.filter": FIR}
            if entry.up or (not first and cin != cout):
                layers[f"{key}.skip_connection"] = (cout, cin, 1, 1)
            power *= growth if first else (growth**2 + 1) * net.residual_gain**2
        if entry.last:
            key = f"synthesis.output_res_{entry.res}x{entry.res}"
            layers[key], gains[key] = (n, net.image_channels, cout, 1, 1), 0.5 / math.sqrt(power)
    for key, size in layers.items():
        tensors |= layer_tensors(net, key, size, gains.get(key, 1.0))
    return tensors


def layer_tensors(net, key, size, gain=1.0):
    """(shape, mean, std) of a layer's tensors. Its size tells what it is: norm (C), dense (out,in), plain
    convolution (out,in,1,1), adaptive modulated convolution (n,out,in,k,k), which brings its style along."""
    adaptive, norm, part = len(size) == 5, len(size) == 1, key.split(".")[0]
    lr_mul = 1.0 if norm else {"text_head": net.text_lr_mul, "mapping": net.mapping_lr_mul}.get(part, 1.0)
    gain *= 0.3 if key.endswith("affine") or (key.endswith("style") and not net.demodulate) else 1.0
    fan_in = 1 if net.use_wscale else math.prod(size[1 + adaptive :])
    tensors = {f"{key}.weight": (size, float(norm), 0.2 if norm else gain / lr_mul / math.sqrt(fan_in))}
    if len(size) != 4 and "_attn.to_" not in key:
        mean = float(key.endswith(("style", "filter_weight", "align_dim", "affine")))
        tensors[f"{key}.bias"] = size[adaptive:][:1], mean / lr_mul, 0.3 / lr_mul
    if adaptive:
        tensors |= layer_tensors(net, f"{key}.style", (size[2], net.w_dim))
    if adaptive and size[0] > 1:
        tensors |= layer_tensors(net, f"{key}.filter_weight", (size[0], net.w_dim))
    return tensors


def random_state_dict(constructor, seed):
    """An official checkpoint with every parameter drawn at random, also those that start at zero."""
    generator, state_dict = torch.Generator().manual_seed(seed), {}
    for key, (size, mean, std) in layout(constructor).items():
        original = key.replace(".mlp.", ".").replace(".ff.project_in.", ".ff.net.0.")
        original = original.replace(".ff.proj_out.", ".ff.net.2.")
        drawn = mean + std * torch.randn(size, generator=generator)
        state_dict[key] = state_dict[original].clone() if original != key else drawn
    return state_dict
