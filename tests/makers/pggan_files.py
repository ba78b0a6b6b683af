"""Files of PGGAN of two other projects, and what their networks compute, written down anew."""

import math

import torch
import torch.nn.functional as F

from ganzoo.models.pggan.networks import Generator

WIDTHS = [8, 8, 8, 4]


# -- pytorch_GAN_zoo ------------------------------------------------------------------------------


def zoo_layers(widths, nz, channels, categories, stddev):
    """Names and shapes of the weights of its two networks."""
    first = widths[0]
    g = {"formatLayer": (16 * first, nz), "groupScale0.0": (first, first, 3, 3)}
    d = {
        "groupScaleZero.0": (first, first + stddev, 3, 3),
        "groupScaleZero.1": (first, 16 * first),
        "decisionLayer": (1 + categories, first),
    }
    for i, maps in enumerate(widths):
        g[f"toRGBLayers.{i}"] = (channels, maps, 1, 1)
        d[f"fromRGBLayers.{i}"] = (maps, channels, 1, 1)
        if i:
            g[f"scaleLayers.{i - 1}.0"] = (maps, widths[i - 1], 3, 3)
            g[f"scaleLayers.{i - 1}.1"] = (maps, maps, 3, 3)
            d[f"scaleLayers.{i - 1}.0"] = (maps, maps, 3, 3)
            d[f"scaleLayers.{i - 1}.1"] = (widths[i - 1], maps, 3, 3)
    return g, d


def zoo_state(layers):
    state = {}
    for name, shape in layers.items():
        state[f"{name}.module.weight"] = torch.randn(shape).double()
        state[f"{name}.module.bias"] = torch.randn(shape[0]).double()
    return state


def zoo_checkpoint(widths=WIDTHS, nz=8, channels=3, categories=0, stddev=True):
    g, d = zoo_layers(widths, nz, channels, categories, stddev)
    return {"config": object(), "netG": zoo_state(g), "netD": zoo_state(d), "avgG": zoo_state(g)}


def zoo_layer(state, name, x):
    """Weight and bias, both times sqrt(2 / fan_in)."""
    weight, bias = state[f"{name}.module.weight"], state[f"{name}.module.bias"]
    scale = math.sqrt(2 / weight[0].numel())
    if weight.dim() == 2:
        return (x.flatten(1) @ weight.T + bias) * scale
    return (F.conv2d(x, weight, padding=weight.shape[-1] // 2) + bias[:, None, None]) * scale


def act(x):
    return torch.where(x > 0, x, 0.2 * x)


def norm(x):
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def up(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def zoo_images(state, z, scales, alpha):
    x = norm(act(zoo_layer(state, "formatLayer", norm(z))).reshape(len(z), -1, 4, 4))
    x = old = norm(act(zoo_layer(state, "groupScale0.0", x)))
    for i in range(scales):
        old, x = x, up(x)
        for j in (0, 1):
            x = norm(act(zoo_layer(state, f"scaleLayers.{i}.{j}", x)))
    image = zoo_layer(state, f"toRGBLayers.{scales}", x)
    if not alpha:
        return image
    return (1 - alpha) * image + alpha * up(zoo_layer(state, f"toRGBLayers.{scales - 1}", old))


def zoo_scores(state, x, scales, alpha, stddev):
    halved = F.avg_pool2d(x, 2)
    old = act(zoo_layer(state, f"fromRGBLayers.{scales - 1}", halved)) if alpha else 0
    x = act(zoo_layer(state, f"fromRGBLayers.{scales}", x))
    for i in reversed(range(scales)):
        for j in (0, 1):
            x = act(zoo_layer(state, f"scaleLayers.{i}.{j}", x))
        x = F.avg_pool2d(x, 2)
        if i == scales - 1 and scales > 1:
            x = (1 - alpha) * x + alpha * old
    if stddev:
        spreads = [g.std(0).mean().expand(4, 1, 4, 4) for g in x.split(4)]
        x = torch.cat([x, torch.cat(spreads)], 1)
    for name in ("groupScaleZero.0", "groupScaleZero.1"):
        x = act(zoo_layer(state, name, x))
    return zoo_layer(state, "decisionLayer", x)


# -- the official code ----------------------------------------------------------------------------


def tf_conv(x, w, down=False):
    """SAME convolution, w as [height, width, inputs, outputs]."""
    return F.conv2d(
        x, torch.einsum("hwio->oihw", w), padding=1 if len(w) > 1 else 0, stride=1 + down
    )


def four_shifts(w):
    """A 3x3 kernel as the sum of its copies at the four places in 4x4."""
    wide = torch.zeros(4, 4, *w.shape[2:], dtype=w.dtype)
    for i in (0, 1):
        for j in (0, 1):
            wide[i : i + 3, j : j + 3] += w
    return wide


def tf_up_conv(x, w):
    """Each input pixel adds its 4x4 picture, w as [height, width, outputs, inputs]."""
    n, _, height, width = x.shape
    wide = four_shifts(w)
    canvas = torch.zeros(n, w.shape[2], 2 * height + 2, 2 * width + 2, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            canvas[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += torch.einsum(
                "ni,hwoi->nohw", x[:, :, i, j], wide
            )
    return canvas[:, :, 1:-1, 1:-1]


def tf_weight(arrays, name, gain, fan_in):
    return arrays[f"{name}/weight"] * (gain / math.sqrt(fan_in))


def tf_bias(arrays, name, x):
    return x + arrays[f"{name}/bias"].reshape(1, -1, *[1] * (x.dim() - 2))


def tf_images(arrays, z, fused):
    root = math.sqrt(2)
    x = norm(z) @ tf_weight(arrays, "4x4/Dense", root / 4, 8)
    x = norm(act(tf_bias(arrays, "4x4/Dense", x.reshape(-1, 8, 4, 4))))
    x = norm(act(tf_bias(arrays, "4x4/Conv", tf_conv(x, tf_weight(arrays, "4x4/Conv", root, 72)))))
    for name, maps in (("8x8", 8), ("16x16", 8)):
        if fused:
            w = tf_weight(arrays, f"{name}/Conv0_up", root, 9 * maps)
            x = norm(act(tf_bias(arrays, f"{name}/Conv0_up", tf_up_conv(x, w))))
        else:
            w = tf_weight(arrays, f"{name}/Conv0", root, 9 * maps)
            x = norm(act(tf_bias(arrays, f"{name}/Conv0", tf_conv(up(x), w))))
        w = tf_weight(arrays, f"{name}/Conv1", root, 9 * x.shape[1])
        x = norm(act(tf_bias(arrays, f"{name}/Conv1", tf_conv(x, w))))
    w = tf_weight(arrays, "ToRGB_lod0", 1, x.shape[1])
    return tf_bias(arrays, "ToRGB_lod0", tf_conv(x, w))


def tf_scores(arrays, x, fused):
    root = math.sqrt(2)
    w = tf_weight(arrays, "FromRGB_lod0", root, 3)
    x = act(tf_bias(arrays, "FromRGB_lod0", tf_conv(x, w)))
    for name in ("16x16", "8x8"):
        w = tf_weight(arrays, f"{name}/Conv0", root, 9 * x.shape[1])
        x = act(tf_bias(arrays, f"{name}/Conv0", tf_conv(x, w)))
        if fused:
            w = four_shifts(tf_weight(arrays, f"{name}/Conv1_down", root, 9 * x.shape[1])) / 4
            x = act(tf_bias(arrays, f"{name}/Conv1_down", tf_conv(x, w, down=True)))
        else:
            w = tf_weight(arrays, f"{name}/Conv1", root, 9 * x.shape[1])
            x = F.avg_pool2d(act(tf_bias(arrays, f"{name}/Conv1", tf_conv(x, w))), 2)
    groups = x.reshape(4, -1, *x.shape[1:])
    spread = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, spread.reshape(-1, 1, 1, 1).repeat(4, 1, 4, 4)], 1)
    x = act(tf_bias(arrays, "4x4/Conv", tf_conv(x, tf_weight(arrays, "4x4/Conv", root, 81))))
    x = act(
        tf_bias(arrays, "4x4/Dense0", x.flatten(1) @ tf_weight(arrays, "4x4/Dense0", root, 128))
    )
    return tf_bias(arrays, "4x4/Dense1", x @ tf_weight(arrays, "4x4/Dense1", 1, 8))


def tf_arrays(kind, fused):
    """Random variables of networks for 16x16, three channels and widths of 8."""
    conv, biases = (3, 3, 8, 8), {}
    weights = {}
    for name in ("8x8", "16x16"):
        first, second = ("Conv0_up", "Conv1") if kind is Generator else ("Conv0", "Conv1_down")
        weights[f"{name}/{first if fused else 'Conv0'}"] = conv
        weights[f"{name}/{second if fused else 'Conv1'}"] = conv
    if kind is Generator:
        weights |= {"4x4/Dense": (8, 128), "4x4/Conv": conv}
        weights |= {f"ToRGB_lod{i}": (1, 1, 8, 3) for i in range(3)}
        biases = {"4x4/Dense": 8}
    else:
        weights |= {"4x4/Conv": (3, 3, 9, 8), "4x4/Dense0": (128, 8), "4x4/Dense1": (8, 1)}
        weights |= {f"FromRGB_lod{i}": (1, 1, 3, 8) for i in range(3)}
    arrays = {"lod": torch.zeros(())}
    for name, shape in weights.items():
        arrays[f"{name}/weight"] = torch.randn(shape).double()
        arrays[f"{name}/bias"] = torch.randn(biases.get(name, shape[-1])).double()
    return arrays
