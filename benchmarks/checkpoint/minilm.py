"""all-MiniLM-L6-v2: a BERT of 6 layers whose averaged, normalised outputs are embeddings of sentences."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from benchmarks.checkpoint.models import load_model, minilm_folder
from benchmarks.checkpoint.network import Network
from benchmarks.checkpoint.sentences import CALIBRATION_SENTENCES, TEST_SENTENCES

_HEADS = 12
_LAYERS = 6


def mean_cosine(tensors: Mapping[str, np.ndarray]) -> float:
    """Give the mean cosine between the test sentences' embeddings by these weights and by the original ones."""
    found = embed(Network(tensors), TEST_SENTENCES).double()
    return float((found * _original()).sum(1).mean())


def calibration_inputs(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give X^T X, float32 [in, in], of what goes into each linear layer for the calibration sentences.

    Tables of embeddings and the pooler, which sentence embeddings do not use, have none.
    """
    network = Network(tensors, record=True)
    embed(network, CALIBRATION_SENTENCES)
    return {name: gram.numpy() for name, gram in network.grams.items()}


@torch.inference_mode()
def embed(network: Network, sentences: Sequence[str]) -> Tensor:
    """Give the embeddings of sentences, float32 [n, 384], each of length 1; one at a time, so without padding."""
    tokenizer = _tokenizer()
    pooled = [_outputs(network, torch.tensor(tokenizer.encode(text).ids)).mean(0) for text in sentences]
    return functional.normalize(torch.stack(pooled), dim=1)


@cache
def _original() -> Tensor:
    return embed(Network(load_model("minilm")), TEST_SENTENCES).double()


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def _outputs(network: Network, ids: Tensor) -> Tensor:
    """Give the last layer's outputs, float32 [tokens, 384]."""
    x = network["embeddings.word_embeddings.weight"][ids]
    x = x + network["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(network, "embeddings.LayerNorm", x + network["embeddings.token_type_embeddings.weight"][0])
    for layer in range(_LAYERS):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            network.linear(f"{at}.attention.self.{part}", x).unflatten(1, (_HEADS, -1)).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        heads = functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        x = x + network.linear(f"{at}.attention.output.dense", heads)
        x = _norm(network, f"{at}.attention.output.LayerNorm", x)
        hidden = functional.gelu(network.linear(f"{at}.intermediate.dense", x))
        x = _norm(network, f"{at}.output.LayerNorm", x + network.linear(f"{at}.output.dense", hidden))
    return x


def _norm(network: Network, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], network[f"{name}.weight"], network[f"{name}.bias"], eps=1e-12)
