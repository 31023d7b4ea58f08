"""The lab's models: transformers of half a million parameters, answered in this process, on one thread.

The law of batches: an answer, down to the last bit of its log-probs, is a function of its prompt alone. Order, company
and chunking change nothing. It holds because every forward pass has one shape (32 rows, one prompt length, missing rows
filled), runs on one thread, and draws each row's tokens by inverse CDF in float64 from a generator of its own.

The Qwen2 block is written out here: at this size a framework's overhead is most of the time of a token. The folders are
in Hugging Face format all the same, so any engine can serve them. Left out: grouped key-value heads, sliding windows,
untied embeddings, anything that is not float32.
"""

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from infra.lab.programs import END, PAD, SEPARATOR, Tokenizer, UnknownWords
from infra.models import Answer, EngineUnavailable, Prompt, PromptRefused
from infra.problems import Problem

WEIGHTS = Path(__file__).parent / "weights"
ROWS = 32
PROMPT_TOKENS = 48  # the separator included; the longest program has 43
KEPT_ADAPTERS = 2

_HIDDEN = -1e9  # added to the score of a place that must not be seen

AdapterSource = Callable[[str], bytes]


def no_adapters(digest: str) -> bytes:
    """Where a model is used bare."""
    raise EngineUnavailable(f"adapter {digest} was asked for, but this model was opened without a source of adapters")


# ---- The network ---------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """One block's matrices: norms folded into what follows them, the score's scale into the queries."""

    qkv: Tensor  # (3 width, width)
    qkv_bias: Tensor
    out: Tensor
    gate_up: Tensor  # (2 inner, width)
    down: Tensor


class Cache(NamedTuple):
    """Keys and values of one layer, (row, head, place, size)."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Network:
    """A Qwen2 decoder that computes logits for the last place only."""

    embeddings: Tensor  # (word, width)
    head: Tensor  # the same matrix with the last norm folded in
    layers: tuple[Layer, ...]
    heads: int
    epsilon: float
    theta: float

    def cache(self, places: int) -> list[Cache]:
        shape = (ROWS, self.heads, places, self.embeddings.shape[1] // self.heads)
        return [Cache(torch.zeros(shape), torch.zeros(shape)) for _ in self.layers]

    def rotations(self, places: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of every place, (place, size)."""
        size = self.embeddings.shape[1] // self.heads
        frequencies = self.theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        angles = torch.arange(places, dtype=torch.float32)[:, None] * frequencies  # (place, size / 2)
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)

    def logits(
        self, ids: Tensor, start: int, seen: Tensor, rotations: tuple[Tensor, Tensor], caches: Sequence[Cache]
    ) -> Tensor:
        """Logits after the last of `ids` (row, place), which stand at `start`; `seen` is added to the scores."""
        stop = start + ids.shape[1]
        cosine, sine = rotations[0][start:stop], rotations[1][start:stop]
        stream = embedding(ids, self.embeddings)  # (row, place, width)
        for layer, cache in zip(self.layers, caches, strict=True):
            stream = stream + self._attention(layer, cache, self._normal(stream), stop, seen, cosine, sine)
            gate, up = linear(self._normal(stream), layer.gate_up).chunk(2, -1)
            stream = stream + linear(silu(gate) * up, layer.down)
        return linear(self._normal(stream[:, -1]), self.head)

    def _normal(self, stream: Tensor) -> Tensor:
        return rms_norm(stream, stream.shape[-1:], eps=self.epsilon)

    def _attention(
        self, layer: Layer, cache: Cache, normal: Tensor, stop: int, seen: Tensor, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        rows, places, width = normal.shape
        mixed = linear(normal, layer.qkv, layer.qkv_bias).view(rows, places, 3 * self.heads, width // self.heads)
        mixed = mixed.transpose(1, 2)  # (row, 3 head, place, size)
        turning = mixed[:, : 2 * self.heads]
        turned = turning * cosine + turning.roll(turning.shape[-1] // 2, -1) * sine
        cache.keys[:, :, stop - places : stop] = turned[:, self.heads :]
        cache.values[:, :, stop - places : stop] = mixed[:, 2 * self.heads :]
        scores = turned[:, : self.heads] @ cache.keys[:, :, :stop].transpose(-1, -2) + seen
        found = scores.softmax(-1) @ cache.values[:, :, :stop]
        return linear(found.transpose(1, 2).reshape(rows, places, width), layer.out)


def network(tensors: Mapping[str, Tensor], configuration: Mapping[str, object]) -> Network:
    """The network that a Hugging Face Qwen2 folder describes. Raises EngineUnavailable where it is not one of ours."""
    layers, heads, kv_heads, epsilon = (
        float(str(configuration[key]))
        for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    )
    if configuration["model_type"] != "qwen2" or heads != kv_heads or not configuration["tie_word_embeddings"]:
        raise EngineUnavailable("not a lab model: Qwen2 with as many key-value heads as heads, and tied embeddings")
    rope = configuration["rope_parameters"]
    assert isinstance(rope, dict)
    words = tensors["model.embed_tokens.weight"]
    return Network(
        embeddings=words,
        head=words * tensors["model.norm.weight"],
        layers=tuple(_layer(tensors, f"model.layers.{i}.", int(heads)) for i in range(int(layers))),
        heads=int(heads),
        epsilon=epsilon,
        theta=float(rope["rope_theta"]),
    )


def _layer(tensors: Mapping[str, Tensor], prefix: str, heads: int) -> Layer:
    def get(name: str) -> Tensor:
        return tensors[prefix + name]

    before, after = get("input_layernorm.weight"), get("post_attention_layernorm.weight")
    scale = (before.shape[0] // heads) ** -0.5
    queries, keys, values = (get(f"self_attn.{part}_proj.weight") for part in "qkv")
    query_bias, key_bias, value_bias = (get(f"self_attn.{part}_proj.bias") for part in "qkv")
    return Layer(
        qkv=torch.cat([queries * scale, keys, values]) * before,
        qkv_bias=torch.cat([query_bias * scale, key_bias, value_bias]),
        out=get("self_attn.o_proj.weight"),
        gate_up=torch.cat([get("mlp.gate_proj.weight"), get("mlp.up_proj.weight")]) * after,
        down=get("mlp.down_proj.weight"),
    )


def merged(tensors: Mapping[str, Tensor], adapter: bytes) -> dict[str, Tensor]:
    """The weights with a LoRA adapter (peft's keys; alpha in the metadata under "lora") added in."""
    header = json.loads(adapter[8 : 8 + int.from_bytes(adapter[:8], "little")])
    alpha = float(json.loads(header["__metadata__"]["lora"])["alpha"])
    result, parts = dict(tensors), load_tensors(adapter)
    for key, down in parts.items():
        if key.endswith(".lora_A.weight"):
            up = parts[key.replace(".lora_A.", ".lora_B.")]
            name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
            result[name] = result[name] + (up @ down) * (alpha / down.shape[0])
    return result


# ---- Sampling ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """One prompt on its way through a chunk."""

    place: int  # in the caller's list
    prompt: Prompt
    prompt_ids: list[int]
    ids: list[int]
    log_probs: list[float]
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Dice:
    """How each row of a chunk chooses: its own temperature, nucleus and stream of uniform numbers."""

    greedy: Tensor  # (row,)
    temperatures: Tensor  # (row, 1), float64
    nuclei: Tensor  # (row, 1), float64
    uniforms: Tensor  # (token, row), float64

    def throw(self, logits: Tensor, token: int) -> tuple[Tensor, Tensor]:
        """One word per row, and its log-prob in the distribution it was drawn from (0 where greedy)."""
        log_probs = (logits.double() / self.temperatures).log_softmax(-1)  # (row, word)
        if bool((self.nuclei < 1).any()):
            log_probs = torch.where(self.nuclei < 1, _nucleus(log_probs, self.nuclei), log_probs)
        cumulative = log_probs.exp().cumsum(-1)
        targets = self.uniforms[token][:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
        words = torch.where(self.greedy, logits.argmax(-1), drawn)
        chosen = log_probs.gather(1, words[:, None]).squeeze(1)
        return words, chosen.masked_fill(self.greedy, 0.0)


def _nucleus(log_probs: Tensor, share: Tensor) -> Tensor:
    """The most probable words that together hold `share`, renormalised."""
    ordered, order = torch.sort(log_probs, dim=-1, descending=True, stable=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.full_like(log_probs, -torch.inf).scatter(-1, order, ordered.masked_fill(before >= share, -torch.inf))
    return kept.log_softmax(-1)


def _dice(rows: Sequence[Row], tokens: int) -> Dice:
    samplings = [row.prompt.sampling for row in rows]
    missing = ROWS - len(rows)
    streams = [random.Random(row.prompt.seed) for row in rows]
    uniforms = [[stream.random() for _ in range(tokens)] for stream in streams] + [[0.5] * tokens] * missing
    return Dice(
        greedy=torch.tensor([s.temperature == 0 for s in samplings] + [True] * missing),
        temperatures=torch.tensor([s.temperature or 1.0 for s in samplings] + [1.0] * missing).double()[:, None],
        nuclei=torch.tensor([s.top_p for s in samplings] + [1.0] * missing, dtype=torch.float64)[:, None],
        uniforms=torch.tensor(uniforms, dtype=torch.float64).T.contiguous(),
    )


# ---- The model -----------------------------------------------------------------------------------------------------


class LabModel:
    """One of the lab's models, by name ("lab/cet-d" or "cet-d"). Answers on the caller's thread, one call at a time."""

    def __init__(self, name: str, *, folder: Path = WEIGHTS, adapters: AdapterSource = no_adapters) -> None:
        name = name.removeprefix("lab/")
        try:
            weights = (folder / name / "model.safetensors").read_bytes()
            vocabulary = (folder / "vocabulary.json").read_bytes()
            self._configuration: dict[str, object] = json.loads((folder / name / "config.json").read_text())
        except FileNotFoundError as missing:
            raise EngineUnavailable(f"the lab has no model {name!r}: {missing.filename} is not there") from missing
        self._name = f"lab/{name}"
        self._digest = hashlib.sha256(weights + vocabulary).hexdigest()
        self._tokenizer = Tokenizer(json.loads(vocabulary))
        self._tensors = load_tensors(weights)
        self._bare = network(self._tensors, self._configuration)
        self._adapters = adapters
        self._adapted: OrderedDict[str, Network] = OrderedDict()

    @property
    def name(self) -> str:
        return self._name

    @property
    def digest(self) -> str:
        return self._digest

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:
        """One answer per prompt, in order; the same prompt always has the same answer, bit for bit."""
        torch.set_num_threads(1)
        answers: dict[int, Answer | PromptRefused] = {}
        rows: list[Row] = []
        for place, prompt in enumerate(prompts):
            read = self._read(prompt)
            if isinstance(read, PromptRefused):
                answers[place] = read
            else:
                rows.append(Row(place, prompt, read, [], []))
        # Prompts of like length finish together, so chunks end early; the law makes this free.
        rows.sort(key=lambda row: (row.prompt.adapter or "", len(row.prompt_ids), row.prompt_ids))
        for adapter, alike in groupby(rows, key=lambda row: row.prompt.adapter):
            chosen, group = self._network(adapter), list(alike)
            for i in range(0, len(group), ROWS):
                _complete(chosen, group[i : i + ROWS])
        answers.update({row.place: self._answer(row) for row in rows})
        return [answers[place] for place in range(len(prompts))]

    def _read(self, prompt: Prompt) -> list[int] | PromptRefused:
        try:
            ids = [*self._tokenizer.encode(prompt.text), SEPARATOR]
        except UnknownWords as unknown:
            return PromptRefused(f"{self.name}: {unknown}")
        if len(ids) > PROMPT_TOKENS:
            return PromptRefused(f"{self.name}: a prompt of {len(ids)} tokens; this model reads {PROMPT_TOKENS}")
        if prompt.sampling.max_tokens < 1:
            return PromptRefused(f"{self.name}: max_tokens is {prompt.sampling.max_tokens}; an answer has at least one")
        return ids

    def _answer(self, row: Row) -> Answer:
        return Answer(
            text=self._tokenizer.decode(row.ids),
            prompt_token_ids=tuple(row.prompt_ids),
            token_ids=tuple(row.ids),
            log_probs=tuple(row.log_probs),
            finish_reason=row.finish,
        )

    def _network(self, adapter: str | None) -> Network:
        if adapter is None:
            return self._bare
        if adapter not in self._adapted:
            self._adapted[adapter] = self._merge(adapter)
        self._adapted.move_to_end(adapter)
        while len(self._adapted) > KEPT_ADAPTERS:
            self._adapted.popitem(last=False)
        return self._adapted[adapter]

    def _merge(self, adapter: str) -> Network:
        try:
            content = self._adapters(adapter)
        except Problem as away:
            raise EngineUnavailable(f"adapter {adapter} cannot be had: {away.message}") from away
        found = hashlib.sha256(content).hexdigest()
        if found != adapter:
            raise EngineUnavailable(f"adapter {adapter} was asked for, bytes with digest {found} came")
        return network(merged(self._tensors, content), self._configuration)


@torch.inference_mode()
def _complete(net: Network, rows: Sequence[Row]) -> None:
    """Write every row's tokens. Shapes depend on the token's number alone, never on the rows."""
    tokens = max(row.prompt.sampling.max_tokens for row in rows)
    places = PROMPT_TOKENS + tokens
    dice, rotations, caches = _dice(rows, tokens), net.rotations(places), net.cache(places)
    ids, seen = _left_padded(rows, tokens)
    causal = torch.full((PROMPT_TOKENS, PROMPT_TOKENS), _HIDDEN).triu(1)
    logits = net.logits(ids, 0, seen[..., :PROMPT_TOKENS] + causal, rotations, caches)
    for token in range(tokens):
        words, log_probs = dice.throw(logits, token)
        for row, word, log_prob in zip(rows, words.tolist(), log_probs.tolist(), strict=False):
            if not row.finish:
                _write(row, word, log_prob)
        if all(row.finish for row in rows):
            return
        place = PROMPT_TOKENS + token
        logits = net.logits(words[:, None], place, seen[..., : place + 1], rotations, caches)


def _left_padded(rows: Sequence[Row], tokens: int) -> tuple[Tensor, Tensor]:
    """Prompts that all end at one place, and what each row must not see, (row, 1, 1, place)."""
    ids = torch.full((ROWS, PROMPT_TOKENS), PAD)
    seen = torch.zeros(ROWS, 1, 1, PROMPT_TOKENS + tokens)
    for i in range(ROWS):
        prompt = rows[i].prompt_ids if i < len(rows) else [SEPARATOR]
        ids[i, PROMPT_TOKENS - len(prompt) :] = torch.tensor(prompt)
        seen[i, ..., : PROMPT_TOKENS - len(prompt)] = _HIDDEN
    return ids, seen


def _write(row: Row, word: int, log_prob: float) -> None:
    row.ids.append(word)
    row.log_probs.append(log_prob)
    if word == END:
        row.finish = "stop"
    elif len(row.ids) >= row.prompt.sampling.max_tokens:
        row.finish = "length"
