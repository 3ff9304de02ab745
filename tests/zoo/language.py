"""Text models: a BERT-style encoder (post-norm, padding mask) and a GPT-style decoder (causal, tied head)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Inputs, MakeInputs


class Embeddings(nn.Module):
    """Word + position + token type, layer norm, dropout."""

    position_ids: Tensor

    def __init__(self, vocabulary: int, length: int, dim: int) -> None:
        """`length` is the longest sequence."""
        super().__init__()
        self.word, self.position, self.kind = (
            nn.Embedding(vocabulary, dim, 0),
            nn.Embedding(length, dim),
            nn.Embedding(2, dim),
        )
        self.norm, self.dropout = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(0.1)
        self.register_buffer("position_ids", torch.arange(length).unsqueeze(0), persistent=False)

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """(B, T) ids to (B, T, dim)."""
        positions = self.position_ids[:, : ids.shape[1]]
        return self.dropout(self.norm(self.word(ids) + self.kind(kinds) + self.position(positions)))


class SelfAttention(nn.Module):
    """Separate q, k and v; an additive mask."""

    def __init__(self, dim: int, heads: int) -> None:
        """`dim` is split over `heads`."""
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, heads, T, C / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attention by hand."""
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + mask
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v)
        return context.permute(0, 2, 1, 3).contiguous().flatten(2)


class EncoderLayer(nn.Module):
    """Post-norm: norm(x + f(x)) twice."""

    def __init__(self, dim: int, heads: int) -> None:
        """The MLP is four times as wide."""
        super().__init__()
        self.attention, self.output, self.norm1 = (
            SelfAttention(dim, heads),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, eps=1e-12),
        )
        self.intermediate, self.reduce = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm2, self.dropout = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """One layer."""
        x = self.norm1(self.dropout(self.output(self.attention(x, mask))) + x)
        return self.norm2(self.dropout(self.reduce(F.gelu(self.intermediate(x)))) + x)


class Bert(nn.Module):
    """Encoder with a pooler; returns a nested dict."""

    def __init__(self, vocabulary: int, length: int, dim: int, depth: int, heads: int) -> None:
        """Base is 30522, 512, 768, 12, 12."""
        super().__init__()
        self.embeddings = Embeddings(vocabulary, length, dim)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads) for _ in range(depth))
        self.pooler = nn.Linear(dim, dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Any]:
        """Masked positions (mask 0) are seen by nobody."""
        mask = attention_mask[:, None, None, :].to(torch.float32)
        mask = (1.0 - mask) * torch.finfo(torch.float32).min
        x = self.embeddings(input_ids, token_type_ids)
        states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return {"last_hidden_state": x, "pooler_output": pooled, "extra": {"hidden_states": tuple(states[1:-1])}}


class CausalAttention(nn.Module):
    """One linear for q, k and v; by scaled_dot_product_attention or by masked softmax."""

    mask: Tensor

    def __init__(self, dim: int, heads: int, length: int, manual: bool) -> None:
        """`manual` keeps a triangular mask as a buffer."""
        super().__init__()
        self.heads, self.manual = heads, manual
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        if manual:
            self.register_buffer("mask", torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Each position sees itself and those before."""
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(c, dim=2))
        if self.manual:
            scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
            scores = scores.masked_fill(~self.mask[:, :, :t, :t], float("-inf"))
            y = F.softmax(scores, dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class DecoderBlock(nn.Module):
    """Pre-norm attention and tanh-GELU MLP."""

    def __init__(self, dim: int, heads: int, length: int, manual: bool) -> None:
        """The MLP is four times as wide."""
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(dim), CausalAttention(dim, heads, length, manual)
        self.ln_2, self.c_fc, self.c_proj = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Two residuals."""
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Learned positions; the head is the transposed embedding."""

    def __init__(self, vocabulary: int, length: int, dim: int, depth: int, heads: int, manual: bool) -> None:
        """GPT-2 small is 50257, 1024, 768, 12, 12."""
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.h = nn.ModuleList(DecoderBlock(dim, heads, length, manual) for _ in range(depth))
        self.ln_f, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Next-token logits at every position."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def bert(vocabulary: int = 30522, length: int = 512, dim: int = 768, depth: int = 12, heads: int = 12) -> nn.Module:
    """BERT-base."""
    return Bert(vocabulary, length, dim, depth, heads)


def gpt(
    vocabulary: int = 50257, length: int = 1024, dim: int = 768, depth: int = 12, heads: int = 12, manual: bool = False
) -> nn.Module:
    """GPT-2 small."""
    return GPT(vocabulary, length, dim, depth, heads, manual)


def tokens(vocabulary: int, length: int) -> MakeInputs:
    """Inputs of a decoder: random ids."""

    def make(generator: torch.Generator, batch: int) -> Inputs:
        return (torch.randint(vocabulary, (batch, length), generator=generator),), {}

    return make


def masked_tokens(vocabulary: int, length: int) -> MakeInputs:
    """Inputs of an encoder, by name: ids, a mask with a padded tail, two token types."""

    def make(generator: torch.Generator, batch: int) -> Inputs:
        ids = torch.randint(vocabulary, (batch, length), generator=generator)
        kept = torch.tensor([length - (3 + i) % (length // 2) for i in range(batch)])
        mask = (torch.arange(length)[None] < kept[:, None]).to(torch.int64)
        kinds = (torch.arange(length) >= length // 2).to(torch.int64).expand(batch, -1).contiguous()
        return (ids,), {"attention_mask": mask, "token_type_ids": kinds}

    return make
