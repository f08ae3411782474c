"""BLIP's answers to questions about pictures (transformers' BlipForQuestionAnswering), as probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, BlipForQuestionAnswering

from impasto.text.loading import exact_inference, fingerprint, quiet_loading, read_pretrained, weights_hash
from impasto.vision.clip import DEVIATION, MEAN
from impasto.vision.features import channels, resize_square

LONGEST = 35  # pieces of a question (github Karine-Huang/T2I-CompBench, BLIPvqa_eval/models/blip_vqa.py)


class BlipAnswers:
    """P(yes) / (P(yes) + P(no)) of the first piece of the answer, as T2I-CompBench asks. Pictures are
    squeezed to the tower's side (antialiased bicubic) and normalised with CLIP's constants; the first piece
    of a question is BLIP's own mark. Raises ValueError for a tokeniser without "yes" or "no"."""

    def __init__(self, model: Any, tokeniser: Any) -> None:
        self._model, self._tokeniser = model.eval().requires_grad_(False), tokeniser
        self._yes, self._no = tokeniser.convert_tokens_to_ids(["yes", "no"])
        vocabulary = model.config.text_config.vocab_size
        self._start, self._mark = vocabulary - 2, vocabulary - 1  # 30522 and 30523 of the published model
        if tokeniser.unk_token_id in (self._yes, self._no):
            raise ValueError("the tokeniser knows no 'yes' or no 'no'")
        state = model.state_dict()
        self.fingerprint = fingerprint(
            state, {"model": "blip vqa 1", "resize": "bicubic", "mark": self._mark}
        )
        self.networks = {"blip": weights_hash(state)}

    @classmethod
    def from_directory(cls, directory: Path) -> BlipAnswers:
        """From a local directory in transformers' format, weights as safetensors. FileNotFoundError or
        ValueError, in one line, where it holds something else."""
        model = read_pretrained(directory, BlipForQuestionAnswering, ("blip",), "BLIP for questions")
        try:
            with quiet_loading():
                tokeniser = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # whatever the libraries below raise on foreign files
            raise ValueError(f"{directory} holds no tokeniser: {type(error).__name__}") from None
        return cls(model, tokeniser)

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        self._model.to(device)
        return self

    def answer(self, image: Tensor, questions: list[str]) -> list[float]:
        """image [1,3,H,W] in [-1,1] -> the probability for each question about it. Questions go one by one:
        padding would change the numbers (measured with transformers 5.23). ValueError for another shape."""
        side = self._model.config.vision_config.image_size
        x = (resize_square(image.to(self.device), side, "bicubic").clamp(-1, 1) + 1) / 2
        x = (x - channels(MEAN, x)) / channels(DEVIATION, x)
        with exact_inference(self.device):
            seen = self._model.vision_model(pixel_values=x).last_hidden_state
            return [self._answer(seen, question) for question in questions]

    def _answer(self, seen: Tensor, question: str) -> float:
        """seen [1,P,C]: the places of a picture."""
        asked = self._tokeniser(question, truncation=True, max_length=LONGEST, return_tensors="pt")
        ids = asked.input_ids.to(self.device)
        ids[:, 0] = self._mark
        thought = self._model.text_encoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
        ).last_hidden_state
        logits = self._model.text_decoder(
            input_ids=torch.full((1, 1), self._start, device=self.device),
            encoder_hidden_states=thought,
            encoder_attention_mask=torch.ones_like(ids),
        ).logits[0, 0]
        return float(logits[[self._yes, self._no]].float().softmax(dim=0)[0])
