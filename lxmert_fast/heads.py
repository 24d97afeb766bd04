"""What is read off the encoders: the pre-training heads (section 3.1) and the answer head (section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LxmertConfig
from transformers.activations import ACT2FN
from transformers.models.lxmert import modeling_lxmert as huggingface

from .dense import dense, dense_gelu
from .modeling import LAYER_NORM_EPS, activated

#: Modules that are exact GELU.
GELUS = (nn.GELU, huggingface.GeLU)


class LxmertPredictionHeadTransform(nn.Module):
    """LayerNorm(gelu(W x + b)), in front of the word and object decoders."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) to (..., H)."""
        return self.LayerNorm(activated(x, self.dense, self.transform_act_fn))


class LxmertLMPredictionHead(nn.Module):
    """Masked cross-modality language modelling: the decoder is the word embedding, with a free bias."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.transform = LxmertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, text: Tensor) -> Tensor:
        """(B, T, H) to scores over the vocabulary (B, T, V)."""
        return self.decoder(self.transform(text)) + self.bias

    def fit_bias(self) -> None:
        """Give the bias the decoder's number of words, after the embedding was resized; new entries are 0."""
        grown = F.pad(self.bias.data, (0, self.decoder.weight.shape[0] - self.bias.shape[0]))
        self.bias = nn.Parameter(grown, requires_grad=self.bias.requires_grad)


class LxmertPreTrainingHeads(nn.Module):
    """The two text-side heads: masked language modelling and cross-modality matching."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.predictions = LxmertLMPredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(self, text: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H) and (B, H) to word scores (B, T, V) and matching scores (B, 2), class 1 = matched."""
        return self.predictions(text), self.seq_relationship(pooled)


class LxmertVisualObjHead(nn.Module):
    """Masked object prediction: detected labels, attributes and RoI features from one shared transform."""

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        sizes = {
            "obj": (config.visual_obj_loss, config.num_object_labels),
            "attr": (config.visual_attr_loss, config.num_attr_labels),
            "feat": (config.visual_feat_loss, config.visual_feat_dim),
        }
        self.transform = LxmertPredictionHeadTransform(config)
        self.decoder_dict = nn.ModuleDict(
            {name: nn.Linear(config.hidden_size, size) for name, (wanted, size) in sizes.items() if wanted}
        )

    def forward(self, objects: Tensor, rows: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """(..., H) to one (..., classes or F) per decoder.

        With `rows`, objects are (M, H) and each decoder reads those of its mask (M,) bool.
        """
        x = self.transform(objects)
        return {
            name: dense(x if rows is None else x[rows[name]], decoder)
            for name, decoder in self.decoder_dict.items()
        }


class LxmertVisualAnswerHead(nn.Module):
    """W_2 LayerNorm(gelu(W_1 x + b_1)) + b_2 on the cross-modality output.

    `images` is how many pooled outputs it reads side by side: 1 for question answering, 2 for NLVR2.
    """

    def __init__(self, config: LxmertConfig, num_answers: int, images: int = 1) -> None:
        super().__init__()
        width = 2 * config.hidden_size
        self.logit_fc = nn.Sequential(
            nn.Linear(images * config.hidden_size, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=LAYER_NORM_EPS),
            nn.Linear(width, num_answers),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, images * H) to scores (B, A)."""
        first, activation, norm, last = self.logit_fc
        hidden = dense_gelu(pooled, first) if isinstance(activation, GELUS) else activation(first(pooled))
        return dense(norm(hidden), last)

    def resize(self, num_answers: int, std: float) -> nn.Linear:
        """Keep the first rows of the last layer, draw new ones from N(0, std) with bias 0."""
        old = self.logit_fc[-1]
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, num_answers, device=old.weight.device, dtype=old.weight.dtype)
        kept = min(num_answers, old.out_features)
        with torch.no_grad():
            new.weight.normal_(0.0, std)
            new.bias.zero_()
            new.weight[:kept] = old.weight[:kept]
            new.bias[:kept] = old.bias[:kept]
        self.logit_fc[-1] = new
        return new
