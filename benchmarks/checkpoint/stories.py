"""A small language model, stories260K (Llama 2's architecture; layers are stacked in each tensor)."""

import struct
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.checkpoint.models import data_folder
from benchmarks.checkpoint.network import Network

_HEADS, _KV_HEADS = 8, 4
_CONTEXT = 512
_TEST_TEXTS, _CALIBRATION_TEXTS = 16, 16
_TEXT = 1200  # characters, enough for _CONTEXT tokens


def cross_entropy(tensors: Mapping[str, np.ndarray], *, num_texts: int = _TEST_TEXTS) -> float:
    """Give the mean cross entropy of the next token, in nats, over pieces of the test text; lower is better."""
    network = Network(tensors)
    return float(np.mean([_loss(network, _tokens(number)) for number in range(num_texts)]))


def calibration_inputs(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give X^T X, float32 [layers, in, in], of what goes into each stack of linear layers, for other pieces of text."""
    network = Network(tensors, record=True)
    for number in range(_CALIBRATION_TEXTS):
        _loss(network, _tokens(_TEST_TEXTS + number))
    names = {name.rsplit(".", 1)[0] for name in network.grams}
    layers = range(len(network["wq.weight"]))
    return {name: torch.stack([network.grams[f"{name}.{layer}"] for layer in layers]).numpy() for name in sorted(names)}


@torch.inference_mode()
def _loss(network: Network, tokens: Tensor) -> float:
    logits = _logits(network, tokens[:-1])
    return float(functional.cross_entropy(logits, tokens[1:]))


def _logits(network: Network, tokens: Tensor) -> Tensor:
    """Give logits, float32 [n, 512], of the tokens after each of `tokens`, int64 [n]."""
    embeddings = network["tok_embeddings.weight"]
    x = embeddings[tokens]
    for layer in range(len(network["wq.weight"])):
        normed = _norm(x, network["attention_norm.weight"][layer])
        query, key, value = (
            _linear(network, name, layer, normed).unflatten(1, (heads, -1)).transpose(0, 1)
            for name, heads in (("wq", _HEADS), ("wk", _KV_HEADS), ("wv", _KV_HEADS))
        )
        heads = functional.scaled_dot_product_attention(
            _rotate(query)[None], _rotate(key)[None], value[None], is_causal=True, enable_gqa=True
        )[0]
        x = x + _linear(network, "wo", layer, heads.transpose(0, 1).flatten(1))
        normed = _norm(x, network["ffn_norm.weight"][layer])
        gated = functional.silu(_linear(network, "w1", layer, normed)) * _linear(network, "w3", layer, normed)
        x = x + _linear(network, "w2", layer, gated)
    return _norm(x, network["norm.weight"]) @ embeddings.T


def _linear(network: Network, name: str, layer: int, x: Tensor) -> Tensor:
    if network.record:
        network.add_gram(f"{name}.weight.{layer}", x)
    return functional.linear(x, network[f"{name}.weight"][layer])


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, eps=1e-5)


def _rotate(x: Tensor) -> Tensor:
    """Turn adjacent pairs of x [heads, positions, dim] by their position."""
    _, positions, dim = x.shape
    angles = torch.outer(torch.arange(positions), 10000 ** (-torch.arange(0, dim, 2) / dim))
    turned = torch.view_as_complex(x.unflatten(2, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(2)


@cache
def _tokens(number: int) -> Tensor:
    """Give the first 512 tokens, or fewer, of a piece of the text, the start token first."""
    text = (data_folder() / "tinyshakespeare.txt").read_text()[number * _TEXT : (number + 1) * _TEXT]
    ranks, ids = _pieces()
    pieces = [bytes([byte]) for byte in f" {text}".encode()]
    while True:
        joined = [a + b for a, b in zip(pieces, pieces[1:], strict=False)]
        best = max(range(len(joined)), key=lambda at: ranks.get(joined[at], -np.inf))
        if joined[best] not in ranks:
            break
        pieces[best : best + 2] = [joined[best]]
    return torch.tensor([1, *(ids[piece] for piece in pieces)][:_CONTEXT])


@cache
def _pieces() -> tuple[dict[bytes, float], dict[bytes, int]]:
    """Give scores and numbers of the pieces; numbers also of single bytes, unless a piece, tokens 3 to 258."""
    content = (data_folder() / "stories260k_tok512.bin").read_bytes()
    ranks: dict[bytes, float] = {}
    ids: dict[bytes, int] = {bytes([byte]): byte + 3 for byte in range(256)}
    at = 4
    for token in range(512):
        score, length = struct.unpack_from("<fi", content, at)
        piece = content[at + 8 : at + 8 + length]
        at += 8 + length
        if token > 258:
            ranks[piece], ids[piece] = score, token
    return ranks, ids
